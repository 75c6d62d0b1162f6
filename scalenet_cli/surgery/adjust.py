"""What an instance gets around its tied Linears: adapters and gates."""

from torch import nn

from scalenet_cli.adapters import ADAPTERS
from scalenet_cli.adapters.base import Adapter, Site, linear_site
from scalenet_cli.families.base import Anatomy
from scalenet_cli.plan.layout import Instance, StageLayout
from scalenet_cli.plan.schema import AdapterSettings, ExpansionPlan, NoAdapterPlan
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule
from scalenet_cli.surgery.targets import adapter_targets, gets_adapter
from scalenet_cli.surgery.values import Constant, Value


def adjust(
    block: nn.Module, anatomy: Anatomy, plan: ExpansionPlan, stage: StageLayout, slot: Instance
) -> dict[str, Value]:
    """Wraps what the plan means of one instance in place; returns what the new tensors start as.

    The plan has been checked against the model (see problems.py).
    """
    adapters: dict[str, Adapter] = {}
    if not isinstance(plan.adapter, NoAdapterPlan) and gets_adapter(plan.adapter, stage, slot):
        adapters = build_adapters(block, anatomy, plan.adapter)
    uses = stage.uses(slot.source)
    gated = _gated(anatomy, plan, uses)
    values: list[tuple[nn.Parameter, Value]] = []
    for part in anatomy.linears:
        if part not in adapters and part not in gated:
            continue
        core = block.get_submodule(part)
        assert isinstance(core, nn.Linear)
        adapter, gate = adapters.pop(part, None), None
        values += _start(adapter)
        if part in gated:
            gate = nn.Parameter(core.weight.new_empty(core.out_features, device="meta"))
            values.append((gate, Constant(_gate_value(plan, slot, uses))))
        _wrap(block, part, AdjustedLinear(core, adapter, gate))
    # Linears lie inside whole modules, so these are wrapped last.
    for part, adapter in adapters.items():
        values += _start(adapter)
        _wrap(block, part, AdjustedModule(block.get_submodule(part), adapter))
    keys = {id(parameter): key for key, parameter in block.named_parameters()}
    return {keys[id(parameter)]: value for parameter, value in values}


def build_adapters(
    block: nn.Module, anatomy: Anatomy, settings: AdapterSettings
) -> dict[str, Adapter]:
    """The adapters that one block gets, by the path of what each sits beside.

    Raises:
        PlanErrors: a target that matches nothing.
        PlanError: the adapter does not fit there.
    """
    kind = ADAPTERS[settings.type]
    return {
        path: kind.build(_site(block, anatomy, path), settings)
        for path in adapter_targets(settings, anatomy, kind.sits_beside)
    }


def _site(block: nn.Module, anatomy: Anatomy, path: str) -> Site:
    module = block.get_submodule(path)
    if isinstance(module, nn.Linear):
        return linear_site(module)
    inside = [block.get_submodule(one) for one in anatomy.linears if one.startswith(f"{path}.")]
    first, last = inside[0], inside[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    return Site(module, first.in_features, last.out_features, first.weight.dtype)


def _start(adapter: Adapter | None) -> list[tuple[nn.Parameter, Value]]:
    """The parameters of an adapter, and what its kind says that they start as."""
    if adapter is None:
        return []
    stated = adapter.initial_values()
    return [(parameter, stated[key]) for key, parameter in adapter.named_parameters()]


def _wrap(block: nn.Module, part: str, adjusted: AdjustedLinear | AdjustedModule) -> None:
    adjusted.train(adjusted.core.training)
    block.set_submodule(part, adjusted)


def _gated(anatomy: Anatomy, plan: ExpansionPlan, uses: int) -> tuple[str, ...]:
    if not plan.has_gates or uses == 1:
        return ()
    return anatomy.closing


def _gate_value(plan: ExpansionPlan, slot: Instance, uses: int) -> float:
    if plan.start == "average":
        return 1.0 / uses
    return 1.0 if slot.ordinal == 0 else 0.0
