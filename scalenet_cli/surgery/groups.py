"""The group of every tensor of a model, expanded or not, and which groups take gradients."""

from collections.abc import Collection, Mapping

from torch import nn

from scalenet_cli.errors import UnknownBlockTensor
from scalenet_cli.families.base import Anatomy, BlockDescription
from scalenet_cli.plan.schema import Group
from scalenet_cli.surgery.instance import adjusted_modules, block_anatomy

# Position -> the parts of the block, and the paths of whole modules that are wrapped there.
_Blocks = Mapping[str, tuple[Anatomy, tuple[str, ...]]]


def group_parameters(model: nn.Module, family: BlockDescription) -> dict[str, Group]:
    """Key (the first, where a tensor has several) -> group. All weights of blocks are `shared`.

    Raises:
        UnknownBlockTensor: a tensor that the family does not know.
    """
    anatomies: dict[str, _Blocks] = {
        stage.path: {
            position: (block_anatomy(block, family), tuple(adjusted_modules(block)))
            for position, block in model.get_submodule(stage.path).named_children()
        }
        for stage in family.stages(model)
    }
    return {key: _group(key, anatomies, family) for key, _ in model.named_parameters()}


def freeze(
    model: nn.Module, groups: Mapping[str, Group], train: Collection[Group]
) -> dict[str, nn.Parameter]:
    """Only the tensors of these groups take gradients; returns them by their first key."""
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(groups[key] in train)
    return {key: p for key, p in model.named_parameters() if p.requires_grad}


def _group(key: str, anatomies: Mapping[str, _Blocks], family: BlockDescription) -> Group:
    stage = next((path for path in anatomies if key.startswith(f"{path}.")), None)
    if stage is None:
        outer = family.group(key)
        if outer is None:
            raise UnknownBlockTensor(
                f"the model has the tensor {key}, which its family does not know",
                hint="this variant of the architecture is not supported yet",
            )
        return outer
    position, _, inner = key[len(stage) + 1 :].partition(".")
    anatomy, wrapped = anatomies[stage][position]
    for path in wrapped:
        if inner.startswith(f"{path}.core."):
            inner = f"{path}.{inner.removeprefix(f'{path}.core.')}"
    if any(inner.startswith(f"{norm}.") for norm in anatomy.norms):
        return "norms"
    if ".adapter." in inner:
        return "adapters"
    return "gates" if inner.endswith(".gate") else "shared"
