"""Which groups of a model's tensors a run trains."""

from collections.abc import Mapping

from scalenet_cli.errors import OptionError
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.plan.training import Recipe


def train_set(
    groups: Mapping[str, Group],
    planned: tuple[Group, ...],
    recipe: Recipe,
    *,
    new_head: bool = False,
) -> tuple[Group, ...]:
    """The recipe's groups, or else the planned ones; a new head is always one of them.

    ``groups`` has that of every tensor of the model.

    Raises:
        OptionError: the model has no tensors of a group, or `lr_scale` names one that rests.
    """
    present = set(groups.values())
    wanted = set(planned)
    if recipe.train is not None:
        wanted = set(present) if recipe.train == "all" else set(recipe.train)
    lacking = [group for group in GROUPS if group in wanted - present]
    if lacking:
        raise OptionError(
            f"train names {lacking[0]}, but the model has no such tensors",
            hint=f"groups of this model: {', '.join(g for g in GROUPS if g in present)}",
        )
    trained = tuple(g for g in GROUPS if g in wanted or (new_head and g == "head"))
    idle = [group for group in recipe.lr_scale if group not in trained]
    if idle:
        raise OptionError(
            f"lr_scale names {idle[0]}, but no such tensors are trained",
            hint=f"groups that are trained: {', '.join(trained)}",
        )
    return trained
