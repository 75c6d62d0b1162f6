"""One way to open a target: a bundle, a checkpoint, ``timm:NAME`` or ``hf:REPO``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.errors import (
    BundleError,
    CheckpointError,
    ManifestUnreadable,
    MissingExtra,
    OptionError,
    PlanError,
    PlanErrors,
    SurgeryError,
)
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Architecture, BlockDescription, Family
from scalenet_cli.families.sources import Source, check_tensors, naming, open_source
from scalenet_cli.families.sources.tensors import TORCH_NAMES
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.layout import Layout, StageShape
from scalenet_cli.plan.load import PlanDocument
from scalenet_cli.plan.resolve import plain_layout, resolve_layout
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group, NoAdapterPlan
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import Expansion, expand, group_parameters
from scalenet_cli.surgery.assign import meta_like, set_parameters
from scalenet_cli.surgery.problems import plan_problems


@dataclass(frozen=True, slots=True)
class Described:
    """A model without weights, scaled or not, and what has been decided about it."""

    architecture: Architecture
    family: Family
    model: nn.Module
    layout: Layout
    groups: dict[str, Group]
    train: tuple[Group, ...]
    expansion: Expansion | None = None
    source: Source | None = None


def describe(
    target: str,
    options: SourceOptions,
    document: PlanDocument | None = None,
    *,
    image_size: int | None = None,
) -> Described:
    """The target as a model on the meta device. No weights are read or downloaded.

    With a plan, the model is scaled; a bundle's own plan gives way to it.

    Raises:
        ScalenetError: the target or the plan cannot be used.
    """
    target = str(bundle_folder(Path(target)))
    if is_bundle(Path(target)):
        refuse_source_options(target, options)
        manifest = read_manifest(Path(target))
        if document is None and image_size is None:
            with blaming(Path(target)):
                architecture = architecture_of(manifest)
                family = find_family(architecture.family)
                base = _with_head(family.build(architecture), family, manifest)
                return rescale(base, architecture, family, manifest)
        architecture, source = architecture_of(manifest), None
    else:
        source = open_source(
            target, arch=options.arch, arguments=options.model_kwargs, weights=False
        )
        architecture, manifest = source.architecture, None
    family = find_family(architecture.family)
    if image_size is not None and family.input_unit == "pixels":
        sized = {**architecture.arguments, "img_size": image_size}
        architecture, source = replace(architecture, arguments=sized), None
    base = build_base(architecture, family, source, target)
    if manifest is not None:
        base = _with_head(base, family, manifest)
    if document is not None:
        return scale(base, architecture, family, document, source, options.seed)
    if manifest is not None:
        return rescale(base, architecture, family, manifest)
    layout = plain_layout(stage_shapes(family, base))
    groups = group_parameters(base, family)
    present: tuple[Group, ...] = tuple(g for g in GROUPS if g in groups.values())
    return Described(architecture, family, base, layout, groups, present, None, source)


def head_size(manifest: Manifest) -> int | None:
    """The classes of a head that training put in the place of the source's; None without one."""
    trained = manifest.trained
    return trained.num_classes if trained is not None and trained.new_head else None


def _with_head(base: nn.Module, family: Family, manifest: Manifest) -> nn.Module:
    head = head_size(manifest)
    if head is not None:
        family.replace_head(base, head)
    return base


def build_base(
    architecture: Architecture, family: Family, source: Source | None, where: str
) -> nn.Module:
    """The source model on the meta device, with the types of the source's tensors."""
    with naming(where):
        base = family.build(architecture)
    if source is not None and source.tensors:
        check_tensors(base, source.tensors, where)
        specs = {
            key: (tensor.spec.shape, getattr(torch, TORCH_NAMES[tensor.spec.dtype]))
            for key, tensor in source.tensors.items()
        }
        set_parameters(base, meta_like(specs))
    return base


def scale(
    base: nn.Module,
    architecture: Architecture,
    family: Family,
    document: PlanDocument,
    source: Source | None,
    seed: int,
) -> Described:
    """The surgery that a plan asks for; mistakes of the plan come with file and line."""
    with document.locating():
        layout = fit_layout(base, document.plan, family)
        return _operate(base, architecture, family, layout, document.plan, seed, source)


def _operate(
    base: nn.Module,
    architecture: Architecture,
    family: Family,
    layout: Layout,
    plan: ExpansionPlan,
    seed: int,
    source: Source | None,
) -> Described:
    expansion = expand(base, layout, plan, family, seed=seed)
    groups = dict(expansion.groups)
    train = resolve_train(plan, set(groups.values()))
    return Described(
        architecture, family, expansion.model, layout, groups, train, expansion, source
    )


def fit_layout(base: nn.Module, plan: ExpansionPlan, family: BlockDescription) -> Layout:
    """The layout; all that does not fit the model is told at once.

    Raises:
        PlanErrors: mistakes of mapping and scope, of adapter, start and drop path, of train.
    """
    mistakes: list[PlanError] = []
    layout = None
    try:
        layout = resolve_layout(plan, stage_shapes(family, base))
    except PlanErrors as errors:
        mistakes += errors.errors
    except PlanError as error:
        mistakes.append(error)
    mistakes += plan_problems(base, plan, family, layout)
    possible: set[Group] = set(group_parameters(base, family).values())
    possible |= set() if isinstance(plan.adapter, NoAdapterPlan) else {"adapters"}
    possible |= {"gates"} if plan.has_gates else set()
    try:
        resolve_train(plan, possible)
    except PlanErrors as errors:
        mistakes += errors.errors
    if mistakes or layout is None:
        raise PlanErrors(tuple(mistakes))
    return layout


@contextmanager
def blaming(bundle: Path) -> Iterator[None]:
    """Whatever a manifest claims and no model can be: the manifest's fault, not the user's.

    Raises:
        BundleError: with the bundle as its place.
    """
    try:
        yield
    except BundleError as error:
        error.where = error.where or str(bundle)
        raise
    except MissingExtra:
        raise
    except (CheckpointError, PlanError, SurgeryError) as error:
        first = error.errors[0] if isinstance(error, PlanErrors) else error
        raise ManifestUnreadable(
            f"no model is as the manifest says: {first.fact}",
            where=str(bundle),
            hint="the manifest was changed: expand the source again",
        ) from None


def rescale(
    base: nn.Module, architecture: Architecture, family: Family, manifest: Manifest
) -> Described:
    """The surgery that a manifest records."""
    layout = manifest.to_layout()
    _check_layout(manifest, layout, stage_shapes(family, base))
    return _operate(base, architecture, family, layout, manifest.plan, manifest.seed, None)


def _check_layout(manifest: Manifest, layout: Layout, shapes: tuple[StageShape, ...]) -> None:
    """A layout from a file is hostile until it fits the model it claims to be of."""
    if layout != resolve_layout(manifest.plan, shapes):
        raise ManifestUnreadable("its layout is not what its plan gives on its model")


def architecture_of(manifest: Manifest) -> Architecture:
    """How to build the model that a bundle was made from."""
    source = manifest.source
    return Architecture(source.family, source.architecture, source.arguments)


def stage_shapes(family: BlockDescription, model: nn.Module) -> tuple[StageShape, ...]:
    """The stages of a model as the plan layer knows them."""
    return tuple(StageShape(ref.path, ref.depth, ref.width) for ref in family.stages(model))


def refuse_source_options(target: str, options: SourceOptions) -> None:
    """A bundle knows its architecture.

    Raises:
        OptionError: an option says otherwise.
    """
    if options.arch or options.model_kwargs or options.random_weights:
        raise OptionError(
            "--arch, --model-kwargs and --random-weights are not for bundles: the manifest knows "
            "the architecture",
            where=target,
        )
