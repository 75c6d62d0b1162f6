"""What is trained: a bundle's model, its groups, and how its trained tensors become a bundle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, final

import torch
from torch import nn

from scalenet_cli.bundle.manifest import Manifest, TrainedEntry
from scalenet_cli.bundle.read import Bundle, map_tensors
from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.values import Constant, Normal, compute_value

HEAD_STD = 0.02


@final
@dataclass(frozen=True)
class TrainedModel:
    """A model with weights, the bundle it came from, and what of it is trained.

    ``base_keys`` says under which keys of the model the source's tensors are. ``manifest`` is the
    bundle's with this model's numbers. ``num_classes``, ``new_head`` and ``classes`` are of image
    classifiers, ``template`` of language models.
    """

    model: nn.Module
    family: Family
    layout: Layout
    groups: Mapping[str, Group]
    train: tuple[Group, ...]
    base_keys: Mapping[str, tuple[str, ...]]
    bundle: Bundle
    manifest: Manifest
    num_classes: int | None = None
    new_head: bool = False
    classes: Mapping[str, int] = field(default_factory=dict)
    template: Literal["chat", "alpaca", "none"] | None = None

    def trained_entry(
        self, steps: int, metrics: Mapping[str, float], *, averaged: bool
    ) -> TrainedEntry:
        """The manifest's record of the training so far, earlier runs included."""
        before = self.bundle.manifest.trained
        groups = {*self.train, *(before.groups if before else ())}
        return TrainedEntry(
            steps=steps + (before.steps if before else 0),
            groups=tuple(group for group in GROUPS if group in groups),
            num_classes=self.num_classes,
            new_head=self.new_head or bool(before and before.new_head),
            classes=dict(self.classes),
            template=self.template or (before.template if before else None),
            averaged=averaged,
            metrics=dict(metrics),
        )

    def parts(
        self, trained: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Trained tensors, by the model's keys, as the two parts of a bundle: base, instances.

        The base is empty where none of its large tensors was trained: norms and heads override it
        from among the instances' tensors. What was not trained is what the run started from, and
        every tensor keeps the type that it was stored with.
        """
        left = dict(trained)
        stored = dict(map_tensors(self.bundle, "base"))
        own = dict(map_tensors(self.bundle, "instances"))
        first = {names[0]: key for key, names in self.base_keys.items()}
        base: dict[str, torch.Tensor] = {}
        if "shared" in self.train or "embeddings" in self.train:
            base = dict(stored)
            for name in first.keys() & left.keys():
                if not self._is_new_head(name):
                    key = first[name]
                    base[key] = left.pop(name).to(stored[key].dtype)
                    own.pop(name, None)  # an earlier run's override
        for name, tensor in left.items():
            like = own.get(name, stored.get(first.get(name, name), tensor))
            own[name] = tensor.to(like.dtype)
        return base, dict(sorted(own.items()))

    def _is_new_head(self, key: str) -> bool:
        before = self.bundle.manifest.trained
        return self.groups[key] == "head" and (self.new_head or bool(before and before.new_head))


def fill_new_head(model: nn.Module, groups: Mapping[str, Group], seed: int) -> None:
    """Draws the tensors of a replaced head: weights with 0.02, biases zero, as timm does."""
    values = {}
    for key, parameter in model.named_parameters():
        if groups[key] == "head":
            value = Normal(HEAD_STD) if parameter.ndim > 1 else Constant(0.0)
            values[key] = compute_value(value, key, parameter, seed=seed, read=model.get_parameter)
    set_parameters(model, values)
