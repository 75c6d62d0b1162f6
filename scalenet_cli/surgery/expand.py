"""The surgery: a model and a layout in, an expanded model out. Inputs are not modified."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from scalenet_cli.errors import PlanChangesNothing, PlanErrors
from scalenet_cli.families.base import Anatomy, BlockDescription
from scalenet_cli.plan.layout import Instance, Layout, StageLayout
from scalenet_cli.plan.schema import ExpansionPlan, Group
from scalenet_cli.surgery.adjust import adjust
from scalenet_cli.surgery.baselines import averaged_sources, initial_values
from scalenet_cli.surgery.clone import check_anatomy, clone_structure, clone_tied
from scalenet_cli.surgery.groups import group_parameters
from scalenet_cli.surgery.instance import block_anatomy
from scalenet_cli.surgery.problems import plan_problems
from scalenet_cli.surgery.ties import TieTable, keys_by_parameter
from scalenet_cli.surgery.values import Value


@dataclass(frozen=True, slots=True)
class Expansion:
    """An expanded model and what has to be known about its tensors.

    Attributes:
        model: shares every Parameter of the source model; what it adds is on the meta device.
        base_keys: key of the source model -> keys of that tensor in ``model``.
        owned: key in ``model`` -> initial value, for every tensor that belongs to an instance.
        groups: key in ``model`` (the first, where there are several) -> group.
    """

    model: nn.Module
    base_keys: Mapping[str, tuple[str, ...]]
    owned: Mapping[str, Value]
    groups: Mapping[str, Group]

    @property
    def ties(self) -> TieTable:
        """Canonical key -> alias keys, for every tensor that several keys share."""
        return {key: names for key, names in self.base_keys.items() if len(names) > 1}


def expand(
    model: nn.Module,
    layout: Layout,
    plan: ExpansionPlan,
    family: BlockDescription,
    *,
    seed: int = 0,
    check: bool = True,
) -> Expansion:
    """A model with one block per slot of the layout, tied as the plan says.

    The seed decides which blocks the SWA baseline averages; nothing else here is random. ``check``
    is for callers that have not looked for problems of the plan yet.

    Raises:
        PlanErrors: everything in the plan that does not fit the model.
        UnknownBlockTensor: the model is not built as its family states.
    """
    problems = plan_problems(model, plan, family, layout) if check else ()
    if problems:
        raise PlanErrors(problems)
    expanded = clone_structure(model)
    source_keys = {id(parameter): key for key, parameter in model.named_parameters()}
    owned: dict[str, Value] = {}
    for stage in layout.stages:
        stage_work = _Stage(
            model=expanded, stage=stage, plan=plan, family=family, source_keys=source_keys,
            seed=seed,
        )  # fmt: skip
        owned |= stage_work.rebuild()
    _require_change(layout, plan, owned)
    rate = family.default_drop_path(model) if plan.drop_path is None else plan.drop_path
    spread_drop_path(expanded, layout, rate, family)
    family.repair(expanded, layout)
    names = keys_by_parameter(expanded)
    base_keys = {key: names[id(parameter)] for key, parameter in model.named_parameters()}
    return Expansion(expanded, base_keys, owned, group_parameters(expanded, family))


def _require_change(layout: Layout, plan: ExpansionPlan, owned: Mapping[str, Value]) -> None:
    if layout.num_new == 0 and not owned and plan.train is None:
        raise PlanChangesNothing(
            "no block instance gets an adapter, and no block is added",
            hint="raise factor (or depth), widen adapter.instances, or name what to train, such "
            "as `train: all`",
            field=("adapter", "instances"),
        )


@dataclass(frozen=True, slots=True)
class _Stage:
    """The replacement of one stage's blocks by its instances."""

    model: nn.Module
    stage: StageLayout
    plan: ExpansionPlan
    family: BlockDescription
    source_keys: Mapping[int, str]
    seed: int

    def rebuild(self) -> dict[str, Value]:
        """Puts the instances in place; returns the initial values of what they own."""
        container = self.model.get_submodule(self.stage.path)
        templates = list(container.children())
        for source, template in enumerate(templates):
            self.family.prepare(template)
            anatomy = self.family.anatomy(template)
            check_anatomy(template, anatomy, f"{self.stage.path}.{source}")
        owned: dict[str, Value] = {}
        instances = []
        for slot in self.stage.instances:
            block, values = self._instance(slot, templates)
            instances.append(block)
            path = f"{self.stage.path}.{slot.position}"
            owned |= {f"{path}.{key}": value for key, value in values.items()}
        sequential = isinstance(container, nn.Sequential)
        rebuilt = nn.Sequential(*instances) if sequential else nn.ModuleList(instances)
        self.model.set_submodule(self.stage.path, rebuilt)
        return owned

    def _instance(
        self, slot: Instance, templates: list[nn.Module]
    ) -> tuple[nn.Module, dict[str, Value]]:
        template = templates[slot.source]
        anatomy = self.family.anatomy(template)
        block = clone_tied(template, self._shared(slot, template, anatomy))
        own: dict[int, Value] = {}
        if slot.ordinal > 0:
            init = self.family.random_init(self.model)
            averaged = averaged_sources(self.seed, self.stage, slot.position)
            own = initial_values(
                block,
                templates,
                source_keys=self.source_keys,
                anatomy=anatomy,
                init=init,
                plan=self.plan,
                slot=slot,
                averaged=averaged,
            )
        values = adjust(block, anatomy, plan=self.plan, stage=self.stage, slot=slot)
        for key, parameter in block.named_parameters():
            if id(parameter) in own:
                values[key] = own[id(parameter)]
        return block, values

    def _shared(self, slot: Instance, template: nn.Module, anatomy: Anatomy) -> list[object]:
        """The objects that the instance does not get a copy of."""
        shared: list[object] = list(self.family.shared_objects(self.model))
        if slot.ordinal == 0:
            # The pretrained occurrence keeps its Parameters: norms as well as tied modules.
            shared += template.parameters()
        if slot.ordinal == 0 or self.plan.shared.weights == "tied":
            shared += [template.get_submodule(part) for part in anatomy.tied]
        if self.plan.shared.norms == "tied":
            shared += [template.get_submodule(part) for part in anatomy.norms]
        return shared


def spread_drop_path(
    model: nn.Module, layout: Layout, rate: float, family: BlockDescription
) -> None:
    """Stochastic depth, linear over the new depth: 0 at the first block, the rate at the last."""
    last = max(layout.num_instances - 1, 1)
    for order, (stage, slot) in enumerate(layout):
        block = model.get_submodule(f"{stage.path}.{slot.position}")
        for part in block_anatomy(block, family).drop_paths:
            drop_path = family.drop_path(rate * order / last).train(block.training)
            block.set_submodule(part, drop_path)
