"""Which groups of tensors a plan trains."""

from collections.abc import Collection

from scalenet_cli.errors import PlanErrors, TrainGroupMissing
from scalenet_cli.plan.schema import DEFAULT_TRAIN, GROUPS, ExpansionPlan, Group


def resolve_train(plan: ExpansionPlan, present: Collection[Group]) -> tuple[Group, ...]:
    """The groups that are trained, of those that the scaled model has.

    Raises:
        PlanErrors: every group of the plan that the model does not have.
    """
    if plan.train == "all":
        return tuple(group for group in GROUPS if group in present)
    if plan.train is None:
        return tuple(group for group in DEFAULT_TRAIN if group in present)
    errors = tuple(
        TrainGroupMissing(
            f"train names {group}, but the scaled model has no such tensors",
            hint=f"groups of this model: {', '.join(g for g in GROUPS if g in present)}",
            field=("train", order),
        )
        for order, group in enumerate(plan.train)
        if group not in present
    )
    if errors:
        raise PlanErrors(errors)
    return tuple(group for group in GROUPS if group in plan.train)
