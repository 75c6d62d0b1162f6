"""The way back to ordinary layers: a copy per instance, and adapters absorbed into weights."""

import torch
from torch import nn

from scalenet_cli.adapters.base import Adapter, CannotBeFolded
from scalenet_cli.errors import CannotFold
from scalenet_cli.families.base import BlockDescription
from scalenet_cli.surgery.clone import clone_structure, clone_tied
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule
from scalenet_cli.surgery.ties import keys_by_parameter


def untie(model: nn.Module, family: BlockDescription) -> nn.Module:
    """A model in which every block owns all its tensors; it computes the same, bit for bit."""
    untied = clone_structure(model)
    for stage in family.stages(untied):
        container = untied.get_submodule(stage.path)
        for name, block in list(container.named_children()):
            own = clone_tied(block, family.shared_objects(untied))
            container.set_submodule(name, own)
    return untied


def fold(model: nn.Module) -> nn.Module:
    """A model whose adapters and gates are absorbed into the weights of plain Linears.

    Outputs stay the same within the rounding of the dtype.

    Raises:
        CannotFold: an adapter that says so, or sits beside a whole module; or a Linear that several
            instances share: what one instance adds to it, all would get.
    """
    folded = clone_structure(model)
    names = keys_by_parameter(folded)
    for path, module in list(folded.named_modules()):
        if isinstance(module, AdjustedModule) and module.adapter is not None:
            raise _cannot_fold(path, _delta(module.adapter))
        if not isinstance(module, AdjustedLinear):
            continue
        shared = names[id(module.core.weight)]
        if len(shared) > 1:
            raise CannotFold(
                f"{path} shares its weight with {len(shared) - 1} more instances",
                hint="untie the model first: a copy per instance can absorb an adapter",
            )
        folded.set_submodule(path, _fold_linear(module, path))
    return folded


@torch.no_grad()
def _fold_linear(module: AdjustedLinear, path: str) -> nn.Linear:
    core = module.core
    weight = core.weight.double()
    bias: torch.Tensor | None = core.bias
    if module.gate is not None:
        weight = module.gate.double()[:, None] * weight
        bias = None if bias is None else module.gate * bias
    if module.adapter is not None:
        delta = _delta(module.adapter)
        if isinstance(delta, CannotBeFolded):
            raise _cannot_fold(path, delta)
        weight = weight + delta
    linear = nn.Linear(core.in_features, core.out_features, bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.to(core.weight.dtype))
    if bias is not None:
        linear.bias = nn.Parameter(bias.clone())
    return linear


def _delta(adapter: nn.Module) -> torch.Tensor | CannotBeFolded:
    if isinstance(adapter, Adapter):
        return adapter.fold()
    return CannotBeFolded(
        f"is a {type(adapter).__name__}, which does not say what it adds to a weight",
        hint="keep the adapter, or make it an Adapter with `fold`",
    )


def _cannot_fold(path: str, answer: torch.Tensor | CannotBeFolded) -> CannotFold:
    """What an adapter says; beside a whole module, whatever it says, there is no weight for it."""
    if isinstance(answer, CannotBeFolded):
        return CannotFold(f"the adapter of {path} {answer.reason}", hint=answer.hint)
    return CannotFold(
        f"the adapter of {path} sits beside a whole module, which has no weight to absorb it",
        hint="keep the adapter, or expand with `adapter: {type: lora}`",
    )
