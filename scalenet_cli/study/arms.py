"""The arms of a study against its source and its data: what each is, and what it costs."""

from dataclasses import dataclass, replace
from typing import Any

from scalenet_cli.errors import OptionError, PlanError, PlanErrors
from scalenet_cli.families.base import InputUnit
from scalenet_cli.measure.flops import count_flops, count_pass
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.load import PlanDocument
from scalenet_cli.plan.load_study import StudyDocument
from scalenet_cli.plan.schema import Group
from scalenet_cli.plan.study import ArmEntry, ArmKind
from scalenet_cli.plan.training import Recipe
from scalenet_cli.reports.base import Report
from scalenet_cli.study.data import StudySource, TaskMaker
from scalenet_cli.study.plans import Target, describe_arm, make_plan
from scalenet_cli.tasks.recipes import recipe_table
from scalenet_cli.training.trained_groups import train_set


class ArmCost(Report):
    """What an arm is and costs, before anything is trained; 1 multiply-add = 2 FLOPs.

    ``train_flops`` are of forward and backward pass over one sample: an image, or a sequence of
    ``max_length`` tokens. ``relative_cost`` is of ``total_train_flops``, to the first arm's.
    """

    name: str
    kind: ArmKind
    like: str | None
    blocks: int
    new_blocks: int
    stored: int
    trainable: int
    trained_groups: tuple[Group, ...]
    input_size: int
    unit: InputUnit
    macs: int
    train_flops: int
    batch_size: int
    steps: int
    epochs: float
    total_train_flops: int
    relative_cost: float


@dataclass(frozen=True, slots=True)
class Arm:
    """An arm that fits its source: how its bundles are made and trained. The seed is not set."""

    name: str
    reference: str
    options: SourceOptions
    plan: PlanDocument
    recipe: Recipe
    cost: ArmCost
    layout: Layout


@dataclass(frozen=True, slots=True)
class ArmBuilder:
    """Makes arms of entries; nothing is written, no weights are read."""

    document: StudyDocument
    source: StudySource
    tasks: TaskMaker

    def build(self) -> tuple[Arm, ...]:
        """All arms, in the order of the study.

        Raises:
            PlanErrors: every arm that does not fit the source.
            DataError, OptionError: the data do not fit an arm.
        """
        entries = self.document.study.arms
        made: dict[str, Arm] = {}
        mistakes: list[PlanError] = []
        for order in sorted(range(len(entries)), key=lambda at: entries[at].like is not None):
            entry = entries[order]
            like = made.get(entry.like) if entry.like else None
            if entry.like and like is None:
                continue  # what it is like has mistakes of its own
            try:
                made[entry.name] = self._arm(order, entry, like)
            except PlanErrors as errors:
                mistakes += errors.errors
            except PlanError as error:
                mistakes.append(error)
        if mistakes:
            # A mistake of the common recipe is one of every arm.
            raise PlanErrors(tuple({str(error): error for error in mistakes}.values()))
        first = made[entries[0].name].cost.total_train_flops
        return tuple(_relative(made[entry.name], first) for entry in entries)

    def _arm(self, order: int, entry: ArmEntry, like: Arm | None) -> Arm:
        where = self.document.where("arms", order)
        recipe = self.document.recipe(order, self.source.task, recipe_table())
        reference, options = self.source.reference, self.source.options
        if entry.kind == "scratch":
            reference, options = self.source.scratch()
        plan = make_plan(
            self.document, self.source, order,
            None if like is None else Target(like.layout, like.cost.stored),
        )  # fmt: skip
        described = describe_arm(self.source, plan)
        num_samples = self.tasks.make(recipe, where).sizes[0]
        try:
            cost = self._cost(entry, described, recipe, num_samples)
        except OptionError as error:
            error.where = error.where or where
            raise
        if entry.budget == "flops":
            assert like is not None
            steps = round(like.cost.total_train_flops / (cost.train_flops * recipe.batch_size))
            recipe = recipe.model_copy(update={"max_steps": max(steps, 1)})
            cost = cost.model_copy(update=_of_steps(recipe, num_samples, cost.train_flops))
        return Arm(
            name=entry.name,
            reference=reference,
            options=options,
            plan=plan,
            recipe=recipe,
            cost=cost,
            layout=described.layout,
        )

    def _cost(
        self, entry: ArmEntry, described: DescribedModel, recipe: Recipe, num_samples: int
    ) -> ArmCost:
        model, family = described.model, described.family
        trained = train_set(described.groups, described.train, recipe, new_head=self.tasks.new_head)
        sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(described.groups[key] in trained)
        size = family.default_input_size(model)
        size = recipe.input_size or size
        flops = count_flops(model, described.layout, family, size)
        train_flops, _ = count_pass(model, family, size, training=True)
        return ArmCost(
            name=entry.name,
            kind=entry.kind,
            like=entry.like,
            blocks=described.layout.num_instances,
            new_blocks=described.layout.num_new,
            stored=sum(sizes.values()),
            trainable=sum(n for key, n in sizes.items() if described.groups[key] in trained),
            trained_groups=trained,
            input_size=size,
            unit=flops.unit,
            macs=flops.macs,
            train_flops=train_flops,
            batch_size=recipe.batch_size,
            relative_cost=1.0,
            **_of_steps(recipe, num_samples, train_flops),
        )


def _of_steps(recipe: Recipe, num_samples: int, train_flops: int) -> dict[str, Any]:
    """The entries of a cost that depend on the number of steps."""
    steps_per_epoch = num_samples // recipe.batch_size
    steps = recipe.max_steps or recipe.epochs * steps_per_epoch
    return {
        "steps": steps,
        "epochs": round(steps / steps_per_epoch, 2),
        "total_train_flops": train_flops * recipe.batch_size * steps,
    }


def _relative(arm: Arm, first: int) -> Arm:
    ratio = round(arm.cost.total_train_flops / first, 4)
    return replace(arm, cost=arm.cost.model_copy(update={"relative_cost": ratio}))
