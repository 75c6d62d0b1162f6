"""What a step minimises: outputs, a batch and, if it wants them, the base's outputs, to a loss."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class Loss:
    """A differentiable mean over targets, and the parts that it is the sum of.

    Parts are logged as ``loss/NAME`` where there are any; they are weighted and summed over
    micro-batches and ranks as the total is.
    """

    total: torch.Tensor
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """Turns what the student puts out into a loss; the task says what outputs and targets are."""

    @property
    def wants_teacher(self) -> bool:
        """Whether it needs what the base model puts out for the same inputs."""
        ...

    def loss(self, outputs: Any, targets: torch.Tensor, teacher: Any) -> Loss:
        """``teacher`` are the base's outputs, without gradients; None where they are not wanted."""
        ...
