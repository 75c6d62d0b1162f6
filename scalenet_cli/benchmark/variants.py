"""The models that `bench` sets side by side, all of one architecture and one layout."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import torch
from torch import nn

from scalenet_cli.families.base import Family
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group, NoAdapterPlan
from scalenet_cli.surgery import expand, group_parameters
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.groups import freeze
from scalenet_cli.surgery.untie import untie

VariantName = Literal["base", "scaled", "floor", "untied"]

_STD: Final = 0.02


@dataclass(frozen=True, slots=True)
class Variant:
    """A model, without weights at first, and which groups of its tensors a training step trains."""

    name: VariantName
    model: nn.Module
    groups: Mapping[str, Group]
    train: tuple[Group, ...]

    def freeze(self) -> None:
        """Only tensors of the trained groups require gradients."""
        freeze(self.model, self.groups, self.train)


def make_variants(
    described: DescribedModel, plan: ExpansionPlan | None, seed: int
) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """All variants that differ from each other, on the meta device; and why some are left out."""
    if plan is None:
        note = "no plan is given, so there is nothing to compare the model with"
        return (_whole("base", described.model, described.family),), (note,)
    variants = [
        _whole("base", described.family.build(described.architecture), described.family),
        Variant("scaled", described.model, described.groups, described.train),
    ]
    notes = []
    if isinstance(plan.adapter, NoAdapterPlan):
        notes.append("floor is left out: the plan has no adapters, so it would be scaled again")
    else:
        variants.append(_floor(described, plan, seed))
    if described.layout.num_new == 0:
        notes.append("untied is left out: the plan adds no blocks, so it would be base again")
    else:
        variants.append(_untied(described, plan, seed))
    for variant in variants:
        variant.freeze()
    return tuple(variants), tuple(notes)


def _whole(name: VariantName, model: nn.Module, family: Family) -> Variant:
    groups = group_parameters(model, family)
    return Variant(name, model, groups, tuple(g for g in GROUPS if g in groups.values()))


def _floor(described: DescribedModel, plan: ExpansionPlan, seed: int) -> Variant:
    """What the scaled model costs at least: its blocks and norms, without any adapter.

    Norms are trained even if the plan does not say so, since a gradient has to go as deep.
    """
    plain = plan.model_copy(update={"adapter": NoAdapterPlan()})
    model = _build(described, plain, seed)
    groups = group_parameters(model, described.family)
    wanted = {*described.train, "norms"}
    return Variant("floor", model, groups, tuple(g for g in GROUPS if g in wanted - {"adapters"}))


def _untied(described: DescribedModel, plan: ExpansionPlan, seed: int) -> Variant:
    """An ordinary model of the same depth."""
    plain = plan.model_copy(update={"adapter": NoAdapterPlan(), "start": "copy"})
    model = untie(_build(described, plain, seed), described.family)
    return _whole("untied", model, described.family)


def _build(described: DescribedModel, plan: ExpansionPlan, seed: int) -> nn.Module:
    # A base of its own: surgery shares Parameters, and each variant trains other ones.
    base = described.family.build(described.architecture)
    if described.layout.num_new == 0:
        return base  # surgery would refuse a plan that changes nothing
    return expand(base, described.layout, plan, described.family, seed=seed).model


def materialise(variant: Variant, family: Family, device: torch.device) -> None:
    """Gives the model random weights on a device, in float32, in place and with its ties.

    Values do not change what a pass costs, as long as they stay away from denormal numbers.
    """
    values = {
        key: torch.ones(parameter.shape, device=device)
        if variant.groups[key] in ("norms", "gates")
        else torch.randn(parameter.shape, device=device).mul_(_STD)
        for key, parameter in variant.model.named_parameters()
    }
    set_parameters(variant.model, values)
    family.finish(variant.model, Path(), frozenset())
    variant.model.to(device)
    variant.freeze()
