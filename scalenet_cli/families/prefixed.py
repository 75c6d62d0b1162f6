"""A description of blocks for a model that stands inside a host, such as a detector's backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

from scalenet_cli.families.base import (
    Anatomy,
    BlockDescription,
    OuterGroup,
    RandomInit,
    StageRef,
    group_by_pattern,
)

if TYPE_CHECKING:
    from torch import nn

    from scalenet_cli.plan.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class PrefixedBlocks:
    """What ``inner`` says of a model, for a host that holds the model below ``prefix``.

    Attributes:
        prefix: path of the inner model in the host, with a dot at its end: ``backbone.``.
        groups: pattern of keys -> group, for the host's own tensors.
    """

    inner: BlockDescription
    prefix: str
    groups: tuple[tuple[str, OuterGroup], ...] = ()

    def __post_init__(self) -> None:
        if not self.prefix.endswith("."):
            raise ValueError(f"the prefix {self.prefix!r} has no dot at its end")

    def part(self, host: "nn.Module") -> "nn.Module":
        """The model inside the host that the inner description is of."""
        return host.get_submodule(self.prefix.removesuffix("."))

    def stages(self, model: "nn.Module") -> tuple[StageRef, ...]:
        """See BlockDescription."""
        stages = self.inner.stages(self.part(model))
        return tuple(replace(stage, path=f"{self.prefix}{stage.path}") for stage in stages)

    def anatomy(self, block: "nn.Module") -> Anatomy:
        """See BlockDescription."""
        return self.inner.anatomy(block)

    def prepare(self, block: "nn.Module") -> None:
        """See BlockDescription."""
        self.inner.prepare(block)

    def group(self, key: str) -> OuterGroup | None:
        """See BlockDescription."""
        if key.startswith(self.prefix):
            return self.inner.group(key.removeprefix(self.prefix))
        return group_by_pattern(key, self.groups)

    def shared_objects(self, model: "nn.Module") -> Sequence[object]:
        """See BlockDescription."""
        return self.inner.shared_objects(self.part(model))

    def drop_path(self, rate: float) -> "nn.Module":
        """See BlockDescription."""
        return self.inner.drop_path(rate)

    def default_drop_path(self, model: "nn.Module") -> float:
        """See BlockDescription."""
        return self.inner.default_drop_path(self.part(model))

    def random_init(self, model: "nn.Module") -> RandomInit:
        """See BlockDescription."""
        return self.inner.random_init(self.part(model))

    def repair(self, model: "nn.Module", layout: "Layout") -> None:
        """See BlockDescription. The layout's paths are the host's; its order is the same."""
        self.inner.repair(self.part(model), layout)
