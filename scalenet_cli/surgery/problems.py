"""Everything in a plan that does not fit a model, found without doing the surgery."""

from collections.abc import Callable

from torch import nn

from scalenet_cli.errors import (
    DropPathUnsupported,
    PlanError,
    PlanErrors,
    StartUnsupported,
    UnknownBlockTensor,
)
from scalenet_cli.families.base import Anatomy, BlockDescription
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import ExpansionPlan, NoAdapterPlan
from scalenet_cli.surgery.adjust import build_adapters


def plan_problems(
    model: nn.Module, plan: ExpansionPlan, family: BlockDescription, layout: Layout | None
) -> tuple[PlanError, ...]:
    """The mistakes of adapter, start and drop path, each once.

    ``layout`` is None where the mapping or scope is wrong too; what depends on them is not checked
    then.
    """
    problems: dict[tuple[str, object], PlanError] = {}
    for index, stage in enumerate(family.stages(model)):
        block = next(model.get_submodule(stage.path).children())
        _require_linears(block, family.anatomy(block), f"{stage.path}.0")
        checks: list[Callable[[nn.Module, Anatomy, ExpansionPlan], None]] = [check_drop_path]
        if _stage_gets_blocks(layout, index):
            checks.append(check_start)
        if _stage_is_adapted(plan, layout, index):
            checks.append(_check_adapter)
        for check in checks:
            try:
                check(block, family.anatomy(block), plan)
            except PlanErrors as errors:
                for error in errors.errors:
                    problems.setdefault((error.code, error.field), error)
            except PlanError as error:
                problems.setdefault((error.code, error.field), error)
    return tuple(problems.values())


def _require_linears(block: nn.Module, anatomy: Anatomy, path: str) -> None:
    """The Linears that the family names are there.

    Raises:
        UnknownBlockTensor: the block is built in another way, or was scaled or wrapped before.
    """
    for part in anatomy.linears:
        try:
            found: object = block.get_submodule(part)
        except AttributeError:
            found = None
        if not isinstance(found, nn.Linear):
            raise UnknownBlockTensor(
                f"{path} has no Linear {part}, as its family states",
                hint="this variant of the architecture is not supported, or the model was scaled, "
                "wrapped or quantised before",
            )


def check_start(_: nn.Module, anatomy: Anatomy, plan: ExpansionPlan) -> None:
    """The start keeps its promise on such a block.

    Raises:
        StartUnsupported: a norm would cancel the factor.
    """
    if plan.start == "identity" and anatomy.bias_after_closing:
        raise StartUnsupported(
            "start: identity, which is the default, silences each branch, but a norm with a bias "
            "follows in this model",
            hint="write `start: copy`: the model then computes something else than its source "
            "until it is trained",
            field=("start",),
        )
    if plan.start == "average" and anatomy.norm_after_closing:
        raise StartUnsupported(
            "start: average scales each branch, but this model normalises its branches again",
            hint="use `start: identity` or `start: copy`",
            field=("start",),
        )


def check_drop_path(_: nn.Module, anatomy: Anatomy, plan: ExpansionPlan) -> None:
    """The family has stochastic depth, where the plan asks for it.

    Raises:
        DropPathUnsupported: it has not.
    """
    if plan.drop_path and not anatomy.drop_paths:
        raise DropPathUnsupported(
            f"drop_path is {plan.drop_path:g}, but this family has no stochastic depth",
            hint="leave drop_path out",
            field=("drop_path",),
        )


def _check_adapter(block: nn.Module, anatomy: Anatomy, plan: ExpansionPlan) -> None:
    if isinstance(plan.adapter, NoAdapterPlan):
        return
    build_adapters(block, anatomy, plan.adapter)


def _stage_gets_blocks(layout: Layout | None, index: int) -> bool:
    """Whether a block of the stage may be executed twice: only then does a start say anything."""
    return layout is None or len(layout.stages[index].instances) > layout.stages[index].depth


def _stage_is_adapted(plan: ExpansionPlan, layout: Layout | None, index: int) -> bool:
    if isinstance(plan.adapter, NoAdapterPlan):
        return False
    if plan.adapter.instances == "all":
        return True
    return layout is not None and bool(layout.stages[index].scope)
