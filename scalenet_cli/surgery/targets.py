"""Which Linears of a block get an adapter."""

from fnmatch import fnmatchcase

from scalenet_cli.errors import PlanErrors, TargetMatchesNothing
from scalenet_cli.families.base import Anatomy
from scalenet_cli.plan.layout import Instance, StageLayout
from scalenet_cli.plan.schema import LoraPlan, ParallelPlan


def adapter_targets(plan: ParallelPlan | LoraPlan, anatomy: Anatomy) -> tuple[str, ...]:
    """The Linears that ``adapter.targets`` means, in the order of execution.

    A pattern matches a whole path (``mlp.fc1``) or the end of one (``fc1``), with ``*`` and ``?``.

    Raises:
        PlanErrors: every pattern that matches nothing.
    """
    match plan.targets:
        case "mlp":
            return anatomy.mlp
        case "attention":
            return anatomy.attention
        case "all-linear":
            return anatomy.linears
    hits = {
        pattern: {path for path in anatomy.linears if _matches(path, pattern)}
        for pattern in plan.targets
    }
    errors = tuple(
        TargetMatchesNothing(
            f"adapter.targets names {pattern}, which matches no Linear of a block",
            hint=f"Linears here: {', '.join(anatomy.linears)}",
            field=("adapter", "targets", order),
        )
        for order, pattern in enumerate(plan.targets)
        if not hits[pattern]
    )
    if errors:
        raise PlanErrors(errors)
    chosen = set().union(*hits.values())
    return tuple(path for path in anatomy.linears if path in chosen)


def gets_adapter(plan: ParallelPlan | LoraPlan, stage: StageLayout, instance: Instance) -> bool:
    """Whether this instance gets an adapter of its own."""
    match plan.instances:
        case "all":
            return True
        case "scaled":
            return instance.source in stage.scope
        case "new":
            return instance.ordinal > 0


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")
