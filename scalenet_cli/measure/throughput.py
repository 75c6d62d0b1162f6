"""Seconds per pass of several models, taken in turn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final, TypeVar, final

import torch
from torch import nn

Step = Callable[[], None]
Tick = Callable[[int, int], object]
N = TypeVar("N", bound=str)

# Small, so that values stay finite however many steps are taken.
_LEARNING_RATE: Final = 1e-5


# Logits and labels of a batch to its mean loss.
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One random batch, and the type that matrix products are computed in.

    ``autocast`` is None where that is the tensors' own.
    """

    inputs: Mapping[str, Any]
    labels: torch.Tensor
    loss: Loss
    device: torch.device
    autocast: torch.dtype | None = None

    @property
    def batch_size(self) -> int:
        """Images or sequences."""
        return len(self.labels)

    def logits(self, model: nn.Module) -> torch.Tensor:
        """What a model answers to the batch."""
        kind, dtype = self.device.type, self.autocast
        with torch.autocast(kind, dtype or torch.bfloat16, enabled=dtype is not None):
            return logits_of(model(**self.inputs))


def logits_of(output: Any) -> torch.Tensor:
    """The tensor that timm returns, or that of a transformers object."""
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits


def inference_step(model: nn.Module, work: Work) -> Step:
    """One forward pass of a model in evaluation mode."""

    def step() -> None:
        with torch.inference_mode():
            work.logits(model)

    return step


@final
class TrainingStep:
    """Forward, cross entropy, backward and AdamW, for the tensors that require gradients."""

    def __init__(self, model: nn.Module, work: Work) -> None:
        self.model = model
        self.work = work
        self.trained = [p for p in model.parameters() if p.requires_grad]
        fused = work.device.type == "cuda"
        self.optimizer = torch.optim.AdamW(self.trained, lr=_LEARNING_RATE, fused=fused)

    def __call__(self) -> None:
        """A whole step; gradients are gone afterwards, so that they burden no other model."""
        self.forward().backward()  # type: ignore[no-untyped-call]
        self.update()

    def forward(self) -> torch.Tensor:
        """The loss."""
        return self.work.loss(self.work.logits(self.model), self.work.labels)

    def update(self) -> None:
        """What follows the backward pass."""
        self.optimizer.step()
        self.optimizer.zero_grad()


def take_turns(
    steps: Mapping[N, Step],
    device: torch.device,
    *,
    repeats: int,
    warmup: int,
    tick: Tick = lambda done, total: None,
) -> dict[N, tuple[float, ...]]:
    """Seconds of every step in every round, by name.

    A round runs each step once, so whatever else the machine does disturbs all of them alike.
    """
    seconds: dict[N, list[float]] = {name: [] for name in steps}
    total = warmup + repeats
    for turn in range(total):
        for name, step in steps.items():
            synchronize(device)
            start = perf_counter()
            step()
            synchronize(device)
            if turn >= warmup:
                seconds[name].append(perf_counter() - start)
        tick(turn + 1, total)
    return {name: tuple(values) for name, values in seconds.items()}


def synchronize(device: torch.device) -> None:
    """Everything that was asked of the device is done."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
