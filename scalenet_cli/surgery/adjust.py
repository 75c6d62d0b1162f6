"""What an instance gets around its tied Linears: adapters and gates."""

from torch import nn

from scalenet_cli.adapters import ADAPTERS
from scalenet_cli.families.base import Anatomy
from scalenet_cli.plan.layout import Instance, StageLayout
from scalenet_cli.plan.schema import ExpansionPlan, NoAdapterPlan
from scalenet_cli.surgery.instance import AdjustedLinear
from scalenet_cli.surgery.targets import adapter_targets, gets_adapter
from scalenet_cli.surgery.values import Constant, Normal, Value


def adjust(
    block: nn.Module, anatomy: Anatomy, plan: ExpansionPlan, stage: StageLayout, slot: Instance
) -> dict[str, Value]:
    """Wraps the Linears of one instance in place; returns what the new tensors start as.

    The plan has been checked against the model (see problems.py).
    """
    targets = _targets(anatomy, plan, stage, slot)
    uses = stage.uses(slot.source)
    gated = _gated(anatomy, plan, uses)
    values: dict[str, Value] = {}
    for part in anatomy.linears:
        if part not in targets and part not in gated:
            continue
        core = block.get_submodule(part)
        assert isinstance(core, nn.Linear)
        adapter = gate = None
        if part in targets and not isinstance(plan.adapter, NoAdapterPlan):
            adapter = ADAPTERS[plan.adapter.type](core, plan.adapter)
            for key, _ in adapter.named_parameters():
                zero = key in adapter.zero_at_start
                values[f"{part}.adapter.{key}"] = (
                    Constant(0.0) if zero else Normal(core.in_features**-0.5)
                )
        if part in gated:
            gate = nn.Parameter(core.weight.new_empty(core.out_features, device="meta"))
            values[f"{part}.gate"] = Constant(_gate_value(plan, slot, uses))
        adjusted = AdjustedLinear(core, adapter, gate)
        adjusted.train(core.training)
        block.set_submodule(part, adjusted)
    return values


def _targets(
    anatomy: Anatomy, plan: ExpansionPlan, stage: StageLayout, slot: Instance
) -> tuple[str, ...]:
    if isinstance(plan.adapter, NoAdapterPlan):
        return ()
    if not gets_adapter(plan.adapter, stage, slot):
        return ()
    return adapter_targets(plan.adapter, anatomy)


def _gated(anatomy: Anatomy, plan: ExpansionPlan, uses: int) -> tuple[str, ...]:
    if not plan.has_gates or uses == 1:
        return ()
    return anatomy.closing


def _gate_value(plan: ExpansionPlan, slot: Instance, uses: int) -> float:
    if plan.start == "average":
        return 1.0 / uses
    return 1.0 if slot.ordinal == 0 else 0.0
