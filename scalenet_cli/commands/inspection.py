"""``scalenet inspect`` and ``scalenet check``."""

from typing import TYPE_CHECKING

from scalenet_cli.bundle.tensor_scan import describe_non_finite, non_finite_tensors
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import open_target
from scalenet_cli.plan.layout import StageLayout
from scalenet_cli.plan.load import PlanDocument, load_plan
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.reports.base import NonFiniteTensor, ParameterReport, Report

if TYPE_CHECKING:
    from scalenet_cli.models.describe import DescribedModel


class StageReport(Report):
    """One stage: where it is, its blocks before and after, and what every position executes."""

    path: str
    width: int
    depth: int
    scaled_depth: int
    scope: tuple[int, ...]
    sources: tuple[int, ...]
    ordinals: tuple[int, ...]


class InspectReport(Report):
    """What a target is."""

    target: str
    family: str
    architecture: str
    stages: tuple[StageReport, ...]
    parameters: ParameterReport
    linears: tuple[str, ...]
    tied_tensors: int
    non_finite: tuple[NonFiniteTensor, ...]
    notes: tuple[str, ...]


class CheckReport(Report):
    """A plan without mistakes."""

    plan: ExpansionPlan
    target: str | None
    blocks: int | None = None
    new_blocks: int | None = None
    stored: int | None = None
    notes: tuple[str, ...] = ()


def inspect(
    target: str, *, plan: str | None = None, options: SourceOptions | None = None
) -> InspectReport:
    """Stages, blocks, widths and layout of a bundle or checkpoint; no weights are read.

    NaN and infinite values are those that were counted when a bundle was written.

    Raises:
        ScalenetError: the target or the plan cannot be used.
    """
    document = load_plan(plan) if plan is not None else None
    from scalenet_cli.measure.params import count_parameters
    from scalenet_cli.models.describe import describe
    from scalenet_cli.surgery.instance import block_anatomy

    opened = open_target(target, options)
    described = describe(opened, document)
    refs = described.family.stages(described.model)
    stages = zip(described.layout.stages, refs, strict=True)
    found = () if opened.manifest is None else non_finite_tensors(opened.manifest.files)
    notes = opened.notes
    block = described.model.get_submodule(f"{refs[0].path}.0")
    return InspectReport(
        target=target,
        family=described.family.name,
        architecture=described.architecture.name,
        stages=tuple(_stage(stage, ref.width) for stage, ref in stages),
        parameters=count_parameters(
            described.model, described.layout, described.groups, described.train
        ),
        linears=block_anatomy(block, described.family).linears,
        tied_tensors=len(described.expansion.ties) if described.expansion else 0,
        non_finite=found,
        notes=(*notes, describe_non_finite(found)) if found else notes,
    )


def _stage(stage: StageLayout, width: int) -> StageReport:
    return StageReport(
        path=stage.path,
        width=width,
        depth=stage.depth,
        scaled_depth=len(stage.instances),
        scope=stage.scope,
        sources=tuple(slot.source for slot in stage.instances),
        ordinals=tuple(slot.ordinal for slot in stage.instances),
    )


def check_plan(
    plan: str, *, against: str | None = None, options: SourceOptions | None = None
) -> CheckReport:
    """A plan, checked by itself or against a model; without a target no torch is imported.

    Raises:
        PlanError: every mistake in it.
    """
    document = load_plan(plan)
    if against is None:
        return CheckReport(plan=document.plan, target=None)
    options = options or SourceOptions()
    described, notes = _scaled(against, document, options)
    stored = sum(parameter.numel() for parameter in described.model.parameters())
    return CheckReport(
        plan=document.plan,
        target=against,
        blocks=described.layout.num_instances,
        new_blocks=described.layout.num_new,
        stored=stored,
        notes=notes,
    )


def _scaled(
    target: str, document: PlanDocument, options: SourceOptions
) -> "tuple[DescribedModel, tuple[str, ...]]":
    """The scaled model; of a checkpoint after all that `expand` does before it writes."""
    from scalenet_cli.models.describe import describe
    from scalenet_cli.models.plan_surgery import plan_surgery

    opened = open_target(target, options)
    if opened.bundle is not None:
        return describe(opened, document), ()
    return plan_surgery(opened, document).described, opened.notes
