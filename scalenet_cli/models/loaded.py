"""A bundle as a model with weights, and what has been decided about it."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from scalenet_cli.bundle.read import Bundle
from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import Group


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model and its bundle.

    ``base_keys`` says under which keys of the model the source's tensors are.
    """

    model: nn.Module
    family: Family
    layout: Layout
    groups: Mapping[str, Group]
    train: tuple[Group, ...]
    base_keys: Mapping[str, tuple[str, ...]]
    bundle: Bundle
