"""The plan of each arm; a baseline gets blocks until it is nearest in size to another arm."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scalenet_cli.errors import PlanSchema
from scalenet_cli.models.describe import DescribedModel, scale, stage_shapes
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.load import PlanDocument
from scalenet_cli.plan.load_study import StudyDocument
from scalenet_cli.plan.schema import MAX_BLOCKS
from scalenet_cli.plan.study import ArmEntry
from scalenet_cli.study.data import BASE_PLAN, StudySource

# The mapping and the weights of each of the paper's baselines.
BASELINES: Final[Mapping[str, tuple[str, str]]] = {
    "random": ("stack", "random"),
    "stack": ("stack", "copied"),
    "interpolate": ("interpolate", "copied"),
    "swa": ("stack", "averaged"),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What an arm is to be like; ``stored`` are parameters."""

    layout: Layout
    stored: int


def describe_arm(source: StudySource, plan: PlanDocument) -> DescribedModel:
    """The source scaled by a plan, on the meta device."""
    return scale(source.base, source.target, plan)


def make_plan(
    document: StudyDocument, source: StudySource, order: int, like: Target | None
) -> PlanDocument:
    """The plan of one arm; ``like`` is what its `like` names.

    Raises:
        PlanError: it is no plan for this source.
    """
    entry = document.study.arms[order]
    if entry.kind == "plan":
        return document.plan(order)
    if entry.kind == "base":
        return document.written_plan(order, BASE_PLAN)
    if entry.kind == "scratch":
        assert like is not None
        return document.written_plan(order, _scratch_plan(like.layout))
    stage, depth = _place(document, source, order)
    added = entry.blocks
    if added is None and entry.match == "blocks":
        assert like is not None
        added = like.layout.num_new
    if added is not None:
        return document.written_plan(order, _baseline_plan(entry, stage, depth + added))
    assert like is not None
    return _nearest(document, source, order=order, stage=stage, depth=depth, stored=like.stored)


def _nearest(
    document: StudyDocument, source: StudySource, order: int, stage: int, depth: int, stored: int
) -> PlanDocument:
    """Blocks are added one by one until the model is nearest to ``stored`` parameters.

    At least one is added: the paper's DeiT-B has one, though none would be nearer.
    """
    entry = document.study.arms[order]
    best: tuple[int, PlanDocument] | None = None
    for target in range(depth + 1, MAX_BLOCKS + 1):
        plan = document.written_plan(order, _baseline_plan(entry, stage, target))
        found = sum(p.numel() for p in describe_arm(source, plan).model.parameters())
        if best is not None and abs(found - stored) >= best[0]:
            break
        best = abs(found - stored), plan
    assert best is not None
    return best[1]


def _place(document: StudyDocument, source: StudySource, order: int) -> tuple[int, int]:
    """Where a baseline adds blocks, and how many are there.

    Raises:
        PlanSchema: the source has several stages, or not this one.
    """
    shapes = stage_shapes(source.family, source.base)
    stage = document.study.arms[order].stage
    if stage is None and len(shapes) > 1:
        raise PlanSchema(
            f"the source has {len(shapes)} stages: a baseline needs `stage`, where its blocks "
            "are added",
            where=document.where("arms", order),
            hint=f"stages are 0..{len(shapes) - 1}; the paper adds blocks to stage 2 of Swin",
        )
    stage = stage or 0
    if stage >= len(shapes):
        raise PlanSchema(
            f"the source has {len(shapes)} stage(s) (0..{len(shapes) - 1}), but the arm names "
            f"stage {stage}",
            where=document.where("arms", order, "stage"),
        )
    return stage, shapes[stage].depth


def _baseline_plan(entry: ArmEntry, stage: int, depth: int) -> dict[str, Any]:
    assert entry.baseline is not None
    mapping, weights = BASELINES[entry.baseline]
    return {
        "version": 1,
        "mapping": mapping,
        "depth": depth,
        "shared": {"scope": {"stages": [stage]}, "weights": weights},
        "adapter": {"type": "none"},
        "start": "copy",
        "train": "all",
    }


def _scratch_plan(layout: Layout) -> dict[str, Any]:
    """As many blocks as the layout has, where it has them, with no tensor in common."""
    scaled = [order for order, s in enumerate(layout.stages) if len(s.instances) > s.depth]
    if not scaled:
        return BASE_PLAN
    sources = [[slot.source for slot in layout.stages[order].instances] for order in scaled]
    return {
        "version": 1,
        "mapping": {"sources": sources},
        "shared": {"scope": {"stages": scaled}, "weights": "random"},
        "adapter": {"type": "none"},
        "start": "copy",
        "train": "all",
    }
