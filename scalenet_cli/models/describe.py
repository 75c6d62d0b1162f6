"""A model without weights, scaled or not, and everything that has been decided about it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import Bundle
from scalenet_cli.errors import ManifestUnreadable, PlanError, PlanErrors
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import BlockDescription, Family
from scalenet_cli.families.sources import Source, check_tensors, naming
from scalenet_cli.families.sources.tensors import TORCH_NAMES
from scalenet_cli.models.target import Target, blaming_manifest
from scalenet_cli.plan.layout import Layout, StageShape
from scalenet_cli.plan.load import PlanDocument
from scalenet_cli.plan.resolve import plain_layout, resolve_layout
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group, NoAdapterPlan
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import Expansion, expand, group_parameters
from scalenet_cli.surgery.assign import meta_like, set_parameters
from scalenet_cli.surgery.problems import plan_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class DescribedModel:
    """A model on the meta device until its weights are loaded (see models.load).

    ``train`` are the groups that its plan trains, or all of a model without a plan.
    ``source_shapes`` are those of the source's tensors, be it with a head that was replaced since.
    """

    target: Target
    model: nn.Module
    layout: Layout
    groups: Mapping[str, Group]
    train: tuple[Group, ...]
    source_shapes: Mapping[str, torch.Size]
    expansion: Expansion | None = None
    plan: ExpansionPlan | None = None

    @property
    def family(self) -> Family:
        """Of the model."""
        return self.target.family

    @property
    def architecture(self) -> Architecture:
        """Of the model that was scaled."""
        return self.target.architecture

    @property
    def source(self) -> Source | None:
        """The checkpoint; None of a bundle."""
        return self.target.source

    @property
    def bundle(self) -> Bundle:
        """The bundle, which the caller knows to be there."""
        assert self.target.bundle is not None
        return self.target.bundle

    @property
    def base_keys(self) -> Mapping[str, tuple[str, ...]]:
        """Key of a tensor of the source -> its keys in the model."""
        if self.expansion is None:
            return {key: (key,) for key, _ in self.model.named_parameters()}
        return self.expansion.base_keys

    def with_head(self, num_classes: int) -> "DescribedModel":
        """The same model with another head, without data, put in its place.

        Raises:
            ArchitectureMismatch: the family has no head that could be replaced.
        """
        self.family.replace_head(self.model, num_classes)
        groups = group_parameters(self.model, self.family)
        return replace(self, groups=groups, train=_trained_groups(self.plan, groups))


def describe(
    target: Target, document: PlanDocument | None = None, *, image_size: int | None = None
) -> DescribedModel:
    """The target as a model on the meta device. No weights are read or downloaded.

    With a plan, the model is scaled; a bundle's own plan gives way to it.

    Raises:
        ScalenetError: the target or the plan cannot be used.
    """
    manifest = target.manifest
    if target.bundle is not None and document is None and image_size is None:
        with blaming_manifest(target.bundle.folder):
            return _rescale(_build(target), target)
    if image_size is not None and target.family.input_unit == "pixels":
        sized = {**target.architecture.arguments, "img_size": image_size}
        # The source's tensors may be of another size, and are not needed.
        target = replace(
            target, architecture=replace(target.architecture, arguments=sized), source=None
        )
    base = _build(target)
    if document is not None:
        return scale(_with_trained_head(base, target), target, document)
    if manifest is not None:
        return _rescale(base, target)
    return describe_plain(base, target)


def describe_plain(base: nn.Module, target: Target) -> DescribedModel:
    """A model that is not scaled."""
    groups = group_parameters(base, target.family)
    return DescribedModel(
        target=target,
        model=base,
        layout=plain_layout(stage_shapes(target.family, base)),
        groups=groups,
        train=_trained_groups(None, groups),
        source_shapes=shapes_of(base),
    )


def _trained_groups(plan: ExpansionPlan | None, groups: Mapping[str, Group]) -> tuple[Group, ...]:
    present = {*groups.values()}
    if plan is None:
        return tuple(group for group in GROUPS if group in present)
    return resolve_train(plan, present)


def head_size(manifest: Manifest) -> int | None:
    """The classes of a head that training put in the place of the source's; None without one."""
    trained = manifest.trained
    return trained.num_classes if trained is not None and trained.new_head else None


def _with_trained_head(base: nn.Module, target: Target) -> nn.Module:
    size = None if target.manifest is None else head_size(target.manifest)
    if size is not None:
        target.family.replace_head(base, size)
    return base


def _build(target: Target) -> nn.Module:
    if target.bundle is not None:
        return target.family.build(target.architecture)
    return build_base(target)


def build_base(target: Target) -> nn.Module:
    """The source model on the meta device, with the types of the source's tensors."""
    source = target.source
    with naming(target.reference):
        base = target.family.build(target.architecture)
    if source is not None and source.tensors:
        check_tensors(base, source.tensors, target.reference)
        specs = {
            key: (tensor.spec.shape, getattr(torch, TORCH_NAMES[tensor.spec.dtype]))
            for key, tensor in source.tensors.items()
        }
        set_parameters(base, meta_like(specs))
    return base


def scale(base: nn.Module, target: Target, document: PlanDocument) -> DescribedModel:
    """The surgery that a plan asks for; mistakes of the plan come with file and line."""
    with document.locating():
        layout = fit_layout(base, document.plan, target.family)
        expansion = expand(
            base, layout, document.plan, target.family, seed=target.options.seed, check=False
        )
        groups = dict(expansion.groups)
        return DescribedModel(
            target=target,
            model=expansion.model,
            layout=layout,
            groups=groups,
            train=_trained_groups(document.plan, groups),
            source_shapes=shapes_of(base),
            expansion=expansion,
            plan=document.plan,
        )


def fit_layout(base: nn.Module, plan: ExpansionPlan, family: BlockDescription) -> Layout:
    """The layout of a plan on a model; everything that does not fit is reported at once.

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


def _rescale(base: nn.Module, target: Target) -> DescribedModel:
    """The surgery that a manifest records."""
    manifest = target.manifest
    assert manifest is not None
    shapes = shapes_of(base)
    base = _with_trained_head(base, target)
    layout, plan = manifest.to_layout(), manifest.plan
    # A layout from a file is hostile until it fits the model it claims to be of.
    if layout != resolve_layout(plan, stage_shapes(target.family, base)):
        raise ManifestUnreadable("its layout is not what its plan gives on its model")
    expansion = expand(base, layout, plan, target.family, seed=manifest.seed)
    groups = dict(expansion.groups)
    return DescribedModel(
        target=target,
        model=expansion.model,
        layout=layout,
        groups=groups,
        train=_trained_groups(plan, groups),
        source_shapes=shapes,
        expansion=expansion,
        plan=plan,
    )


def shapes_of(model: nn.Module) -> dict[str, torch.Size]:
    """Key -> shape of every parameter, each under its first key."""
    return {key: parameter.shape for key, parameter in model.named_parameters()}


def stage_shapes(family: BlockDescription, model: nn.Module) -> tuple[StageShape, ...]:
    """The stages of a model as the plan layer knows them."""
    return tuple(StageShape(ref.path, ref.depth, ref.width) for ref in family.stages(model))
