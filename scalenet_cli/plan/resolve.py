"""A plan against the stages of a model: pure arithmetic, no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from scalenet_cli.errors import (
    CrossStageTie,
    FactorMismatch,
    PlanChangesNothing,
    PlanError,
    PlanErrors,
    PlanTooDeep,
    ScopeOutOfRange,
    SourceMissing,
    SourceOutOfRange,
    YamlPath,
)
from scalenet_cli.plan.layout import Layout, StageLayout, StageShape, stage_layout
from scalenet_cli.plan.mappings import MAPPINGS
from scalenet_cli.plan.schema import (
    MAX_BLOCKS,
    BlocksScope,
    ExpansionPlan,
    NoAdapterPlan,
    SourcesMapping,
    StagesScope,
)


def resolve_layout(plan: ExpansionPlan, stages: Sequence[StageShape]) -> Layout:
    """Which block every slot of the scaled model executes.

    Raises:
        PlanErrors: everything in the plan that does not fit these stages.
    """
    resolver = _Resolver(plan, tuple(stages), [])
    scopes = resolver.scopes()
    if resolver.errors:
        raise PlanErrors(tuple(resolver.errors))
    layouts = resolver.layouts(scopes)
    if resolver.errors:
        raise PlanErrors(tuple(resolver.errors))
    layout = Layout(layouts)
    # With a train set of its own it is the source, to be trained as it is: a baseline.
    if layout.num_new == 0 and isinstance(plan.adapter, NoAdapterPlan) and plan.train is None:
        raise PlanChangesNothing(
            "the plan adds no block and no adapter, so the model would stay what it is",
            hint="ask for more blocks than the source has, choose an adapter, or set train",
            field=_depth_field(plan),
        )
    return layout


def _depth_field(plan: ExpansionPlan) -> YamlPath:
    """Where the plan says how deep the model becomes."""
    if isinstance(plan.mapping, SourcesMapping):
        return ("mapping", "sources")
    return ("factor",) if plan.depth is None else ("depth",)


def plain_layout(stages: Sequence[StageShape]) -> Layout:
    """The layout of a model that is not scaled: every block once."""
    return Layout(tuple(stage_layout(s.path, s.depth, tuple(range(s.depth)), ()) for s in stages))


@dataclass(frozen=True, slots=True)
class _Resolver:
    plan: ExpansionPlan
    stages: tuple[StageShape, ...]
    errors: list[PlanError]

    def scopes(self) -> tuple[tuple[int, ...], ...]:
        """The reused blocks of each stage, numbered inside the stage."""
        scope = self.plan.shared.scope
        if isinstance(scope, BlocksScope):
            return self._blocks(scope.blocks)
        if isinstance(scope, StagesScope):
            chosen = self._stages(scope.stages)
        elif scope == "last-stage" or (scope is None and len(self.stages) > 1):
            chosen = {len(self.stages) - 1}
        else:
            chosen = set(range(len(self.stages)))
        return tuple(
            tuple(range(stage.depth)) if index in chosen else ()
            for index, stage in enumerate(self.stages)
        )

    def _stages(self, named: Sequence[int]) -> set[int]:
        field: YamlPath = ("shared", "scope", "stages")
        self._no_repeats(named, field)
        for order, stage in enumerate(named):
            if stage >= len(self.stages):
                self.errors.append(
                    ScopeOutOfRange(
                        f"the model has {_count(len(self.stages), 'stage')} "
                        f"(0..{len(self.stages) - 1}), but the scope names stage {stage}",
                        hint="run `scalenet inspect TARGET` to list the stages and their depths",
                        field=(*field, order),
                    )
                )
        return set(named)

    def _blocks(self, named: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        field: YamlPath = ("shared", "scope", "blocks")
        self._no_repeats(named, field)
        total = sum(stage.depth for stage in self.stages)
        for order, block in enumerate(named):
            if block >= total:
                self.errors.append(
                    ScopeOutOfRange(
                        f"the model has {_count(total, 'block')} (0..{total - 1}), "
                        f"but the scope names block {block}",
                        hint="run `scalenet inspect TARGET` to list the stages and their depths",
                        field=(*field, order),
                    )
                )
        scopes, first = [], 0
        for stage in self.stages:
            inside = sorted(b - first for b in set(named) if first <= b < first + stage.depth)
            scopes.append(tuple(inside))
            first += stage.depth
        return tuple(scopes)

    def _no_repeats(self, named: Sequence[int], field: YamlPath) -> None:
        repeated = [number for number, times in Counter(named).items() if times > 1]
        if repeated:
            self.errors.append(
                ScopeOutOfRange(f"{field[-1]} names {repeated[0]} more than once", field=field)
            )

    def layouts(self, scopes: tuple[tuple[int, ...], ...]) -> tuple[StageLayout, ...]:
        """The slots of each stage; a stage outside the scope stays as it is."""
        lists = self._source_lists(scopes)
        layouts, scaled = [], 0
        for index, (stage, scope) in enumerate(zip(self.stages, scopes, strict=True)):
            sources = tuple(range(stage.depth))
            if scope and lists is not None:
                field, written = lists[min(scaled, len(lists) - 1)]
                sources = self._written(index, stage, scope=scope, sources=written, field=field)
            elif scope and not isinstance(self.plan.mapping, SourcesMapping):
                sources = self._mapped(index, stage, scope)
            scaled += bool(scope)
            layouts.append(stage_layout(stage.path, stage.depth, sources, scope))
        return tuple(layouts)

    def _mapped(self, index: int, stage: StageShape, scope: tuple[int, ...]) -> tuple[int, ...]:
        assert isinstance(self.plan.mapping, str)
        target = self._target_depth(index, len(scope))
        if target is None:
            return tuple(range(stage.depth))
        return splice(stage.depth, scope, MAPPINGS[self.plan.mapping](len(scope), target))

    def _target_depth(self, index: int, depth: int) -> int | None:
        plan = self.plan
        if plan.depth is not None:
            target, field = plan.depth, "depth"
        else:
            assert plan.factor is not None
            target, field = round(plan.factor * depth), "factor"
            if abs(plan.factor * depth - target) > 1e-6:
                low = int(plan.factor * depth)
                self.errors.append(
                    FactorMismatch(
                        f"factor {plan.factor:g} of the {_count(depth, 'block')} reused in stage "
                        f"{index} is {plan.factor * depth:g} blocks",
                        hint=f"write `depth: {low}` or `depth: {low + 1}` instead of factor",
                        field=(field,),
                    )
                )
                return None
        if target < depth:
            self.errors.append(
                FactorMismatch(
                    f"{_count(depth, 'block')} of stage {index} are reused, but the plan asks for "
                    f"{target}",
                    hint="scalenet only deepens a model: ask for at least as many blocks",
                    field=(field,),
                )
            )
            return None
        if target > MAX_BLOCKS:
            self.errors.append(
                PlanTooDeep(
                    f"the plan asks for {target} blocks in one stage; the limit is {MAX_BLOCKS}",
                    field=(field,),
                )
            )
            return None
        return target

    def _source_lists(
        self, scopes: tuple[tuple[int, ...], ...]
    ) -> list[tuple[YamlPath, tuple[int, ...]]] | None:
        """The written-out sources, one entry per scaled stage, with their YAML paths."""
        mapping = self.plan.mapping
        if not isinstance(mapping, SourcesMapping):
            return None
        field: YamlPath = ("mapping", "sources")
        lists: list[tuple[YamlPath, tuple[int, ...]]] = []
        flat: list[int] = []
        for order, entry in enumerate(mapping.sources):
            if isinstance(entry, tuple):
                lists.append(((*field, order), entry))
            else:
                flat.append(entry)
        if flat:
            lists = [(field, tuple(flat))]
        scaled = sum(bool(scope) for scope in scopes)
        if len(lists) != scaled:
            self.errors.append(
                CrossStageTie(
                    f"the plan scales {_count(scaled, 'stage')}, but mapping.sources has "
                    f"{_count(len(lists), 'list')}; tying never crosses a stage",
                    hint="write one list of sources per scaled stage, or narrow shared.scope",
                    field=field,
                )
            )
            return None
        return lists

    def _written(
        self,
        index: int,
        stage: StageShape,
        scope: tuple[int, ...],
        sources: tuple[int, ...],
        field: YamlPath,
    ) -> tuple[int, ...]:
        for order, source in enumerate(sources):
            if source >= stage.depth:
                self.errors.append(
                    SourceOutOfRange(
                        f"stage {index} has {_count(stage.depth, 'block')} (0..{stage.depth - 1}), "
                        f"but the mapping asks for source block {source}",
                        hint="run `scalenet inspect TARGET` to list the stages and their depths",
                        field=(*field, order),
                    )
                )
        uses = Counter(sources)
        missing = [block for block in range(stage.depth) if block not in uses]
        outside = [block for block, times in uses.items() if times > 1 and block not in scope]
        if missing:
            self.errors.append(
                SourceMissing(
                    f"stage {index} has {_count(stage.depth, 'block')}, but the mapping leaves out "
                    f"{', '.join(map(str, missing[:8]))}",
                    hint="name every pretrained block at least once",
                    field=field,
                )
            )
        if outside:
            self.errors.append(
                SourceMissing(
                    f"the mapping repeats block {outside[0]} of stage {index}, which is outside "
                    "shared.scope",
                    hint="widen shared.scope, or use the block once",
                    field=field,
                )
            )
        return sources


def splice(depth: int, scope: Sequence[int], mapped: Sequence[int]) -> tuple[int, ...]:
    """Put the mapped run of the reused blocks back between the blocks that are not reused.

    ``mapped`` counts inside ``scope``; a block outside the scope keeps its place before the first
    reused block that follows it.

    >>> splice(4, (1, 2), (0, 1, 0, 1))
    (0, 1, 2, 1, 2, 3)
    """
    order: list[int] = []
    next_block = 0
    for entry in mapped:
        source = scope[entry]
        order.extend(range(next_block, source))
        order.append(source)
        next_block = max(next_block, source + 1)
    return (*order, *range(next_block, depth))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
