"""One way to open a target: a bundle, a checkpoint, ``timm:NAME`` or ``hf:REPO``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalenet_cli.bundle.manifest import Manifest, stage_entries
from scalenet_cli.bundle.read import (
    check_digests,
    is_bundle,
    map_tensors,
    open_bundle,
    read_manifest,
)
from scalenet_cli.commands.options import SourceOptions
from scalenet_cli.errors import (
    BundleTieBroken,
    ManifestUnreadable,
    OptionError,
    PlanError,
    PlanErrors,
)
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Architecture, Family
from scalenet_cli.families.sources import Source, check_tensors, open_source
from scalenet_cli.families.sources.tensors import TORCH_NAMES
from scalenet_cli.plan.layout import Layout, StageShape
from scalenet_cli.plan.load import PlanDocument, plan_from_dict
from scalenet_cli.plan.resolve import plain_layout, resolve_layout, resolve_train
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group, NoAdapterPlan
from scalenet_cli.surgery import Expansion, expand, group_parameters, verify_ties
from scalenet_cli.surgery.assign import meta_like, set_parameters
from scalenet_cli.surgery.problems import plan_problems
from scalenet_cli.surgery.values import compute_value


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
    if is_bundle(Path(target)):
        refuse_source_options(target, options)
        manifest = read_manifest(Path(target))
        architecture, source = architecture_of(manifest), None
    else:
        source = open_source(
            target, arch=options.arch, arguments=options.model_kwargs, weights=False
        )
        architecture, manifest = source.architecture, None
    if image_size is not None and architecture.family != "llama":
        sized = {**architecture.arguments, "img_size": image_size}
        architecture, source = replace(architecture, arguments=sized), None
    family = find_family(architecture.family)
    base = build_base(architecture, family, source, target)
    if document is not None:
        return scale(base, architecture, family, document, source, options.seed)
    if manifest is not None:
        return _rescale(base, architecture, family, manifest)
    layout = plain_layout(stage_shapes(family, base))
    groups = group_parameters(base, family)
    present: tuple[Group, ...] = tuple(g for g in GROUPS if g in groups.values())
    return Described(architecture, family, base, layout, groups, present, None, source)


def build_base(
    architecture: Architecture, family: Family, source: Source | None, where: str
) -> nn.Module:
    """The source model on the meta device, with the types of the source's tensors."""
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
        layout = _layout_or_every_mistake(base, document.plan, family)
        expansion = expand(base, layout, document.plan, family, seed=seed)
        train = resolve_train(document.plan, set(expansion.groups.values()))
    return Described(
        architecture,
        family,
        expansion.model,
        layout,
        dict(expansion.groups),
        train,
        expansion,
        source,
    )


def _layout_or_every_mistake(base: nn.Module, plan: ExpansionPlan, family: Family) -> Layout:
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


def _rescale(
    base: nn.Module, architecture: Architecture, family: Family, manifest: Manifest
) -> Described:
    """The surgery that a manifest records."""
    layout = manifest.to_layout()
    _check_layout(manifest, layout, stage_shapes(family, base))
    try:
        expansion = expand(base, layout, manifest.plan, family, seed=manifest.seed)
        train = resolve_train(manifest.plan, set(expansion.groups.values()))
    except PlanError as error:
        raise ManifestUnreadable(f"its plan does not fit its model: {error.fact}") from None
    return Described(
        architecture,
        family,
        expansion.model,
        layout,
        dict(expansion.groups),
        train,
        expansion,
    )


def _check_layout(manifest: Manifest, layout: Layout, shapes: tuple[StageShape, ...]) -> None:
    """A layout from a file is hostile until it fits the model it claims to be of."""
    stated = [(stage.path, stage.depth) for stage in layout.stages]
    if stated != [(shape.path, shape.depth) for shape in shapes]:
        raise ManifestUnreadable(f"the layout's stages {stated} are not the model's")
    for entry in stage_entries(layout):
        if set(entry.sources) != set(range(entry.depth)) or not set(entry.scope) <= set(
            entry.sources
        ):
            raise ManifestUnreadable(f"the layout of {entry.path} does not use its blocks")


def architecture_of(manifest: Manifest) -> Architecture:
    """How to build the model that a bundle was made from."""
    source = manifest.source
    return Architecture(source.family, source.architecture, source.arguments)


def stage_shapes(family: Family, model: nn.Module) -> tuple[StageShape, ...]:
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


def load(path: str | Path, *, check: bool = True) -> nn.Module:
    """The scaled model of a bundle, in evaluation mode, as an ordinary ``nn.Module``.

    It is the library's own class (timm's, transformers'), so ``forward_features``,
    ``forward_intermediates`` and ``generate`` work on it. Weights are mapped, not read; ``check``
    reads them once to compare their digests.

    Raises:
        BundleError: not a bundle, damaged, or with a tie that does not hold.
    """
    bundle = open_bundle(Path(path))
    manifest = bundle.manifest
    if check:
        check_digests(bundle)
    architecture = architecture_of(manifest)
    family = find_family(architecture.family)
    base = family.build(architecture)
    tensors = dict(map_tensors(bundle, "base"))
    _require_keys(base, tensors, "base")
    set_parameters(base, tensors)
    described = _rescale(base, architecture, family, manifest)
    model = described.model
    own = dict(map_tensors(bundle, "instances"))
    assert described.expansion is not None
    missing = described.expansion.owned.keys() - own.keys()
    if missing:
        raise ManifestUnreadable(f"no instance tensor {sorted(missing)[0]}", where=str(path))
    _require_keys(model, own, "instance", complete=False)
    set_parameters(model, own)
    if manifest.ties != dict(described.expansion.ties):
        wrong = [k for k, v in described.expansion.ties.items() if manifest.ties.get(k) != v]
        raise BundleTieBroken(
            f"the manifest's ties are not those of its plan and layout; first: "
            f"{sorted({*wrong, *(manifest.ties.keys() - described.expansion.ties.keys())})[0]}",
            where=str(path),
            hint="the manifest was changed: expand the source again",
        )
    verify_ties(model, manifest.ties)
    family.finish(model, bundle.folder)
    return model.eval()


def _require_keys(
    model: nn.Module, tensors: dict[str, torch.Tensor], kind: str, *, complete: bool = True
) -> None:
    """Names and shapes of a bundle's tensors are the model's."""
    shapes = {
        key: parameter.shape for key, parameter in model.named_parameters(remove_duplicate=False)
    }
    for key, tensor in tensors.items():
        if key not in shapes or shapes[key] != tensor.shape:
            raise ManifestUnreadable(f"the {kind} tensor {key} does not fit the model")
    lacking = [key for key, _ in model.named_parameters() if key not in tensors]
    if complete and lacking:
        raise ManifestUnreadable(f"no {kind} tensor {lacking[0]}")


def expand_module(
    model: nn.Module, plan: ExpansionPlan | dict[str, Any], *, family: str, seed: int = 0
) -> nn.Module:
    """A scaled version of a model in memory, which shares its tensors and leaves it as it is.

    Nothing is frozen: what the plan trains is for the training loop.

    ``family`` is a key of ``scalenet_cli.families.FAMILIES``.

    Raises:
        PlanError: the plan does not fit the model.
    """
    if not isinstance(plan, ExpansionPlan):
        plan = plan_from_dict(plan).plan
    kind = find_family(family)
    layout = _layout_or_every_mistake(model, plan, kind)
    expansion = expand(model, layout, plan, kind, seed=seed)
    resolve_train(plan, set(expansion.groups.values()))
    sources = dict(model.named_parameters())
    blank = dict(expansion.model.named_parameters())
    device = next(model.parameters()).device
    values = {
        key: compute_value(value, key, blank[key], seed=seed, read=sources.__getitem__).to(device)
        for key, value in expansion.owned.items()
    }
    set_parameters(expansion.model, values)
    return expansion.model
