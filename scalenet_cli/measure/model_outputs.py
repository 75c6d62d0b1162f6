"""One model on prepared samples: what it answers, and what passes through its modules."""

# Shape legend: B samples, N tokens, K classes or vocabulary.

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, final

import torch
from torch import nn
from torch.nn import functional as F

from scalenet_cli.errors import LossNotFinite
from scalenet_cli.plan.layout import Instance, Layout

# A label that is no target.
IGNORED: Final = -100
# Beyond it exp() overflows.
_MAX_LOSS: Final = 700.0
# Order of the module, its first input, its output.
Hear = Callable[[int, torch.Tensor, torch.Tensor], None]


# What a model puts out, and labels, to the summed loss and the score.
Scorer = Callable[[Any, torch.Tensor], "tuple[torch.Tensor, Score]"]


@final
@dataclass(frozen=True, slots=True)
class Samples:
    """A batch as a model takes it.

    Attributes:
        inputs: keyword arguments of one forward pass.
        labels: (B,) classes, or (B, N) the token that comes next; IGNORED where there is no target.
        lengths: (B,) tokens of each sample, of which the others are padding on the right; None
            where nothing is padded.
        first: position of the first sample among all.
        scored: the loss and the score of what the model puts out; by default of classes.
    """

    inputs: Mapping[str, Any]
    labels: torch.Tensor
    lengths: torch.Tensor | None
    first: int
    scored: "Scorer" = field(default_factory=lambda: score_classes)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device) -> "Samples":
        """The same on a device."""
        moved = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value
            for name, value in self.inputs.items()
        }
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Samples(
            inputs=moved,
            labels=self.labels.to(device),
            lengths=lengths,
            first=self.first,
            scored=self.scored,
        )


@final
@dataclass(frozen=True, slots=True)
class Score:
    """Sums over samples. Losses are cross entropies in nats."""

    loss_sum: float = 0.0
    num_targets: int = 0
    num_correct: int = 0

    def __add__(self, other: "Score") -> "Score":
        return Score(
            self.loss_sum + other.loss_sum,
            self.num_targets + other.num_targets,
            self.num_correct + other.num_correct,
        )

    @property
    def loss(self) -> float:
        """Mean over all targets."""
        return self.loss_sum / self.num_targets

    @property
    def top1(self) -> float:
        """Per cent of the targets that have the highest logit."""
        return 100 * self.num_correct / self.num_targets

    @property
    def perplexity(self) -> float:
        """``exp(loss)``; NaN stays NaN."""
        return math.exp(min(self.loss, _MAX_LOSS)) if not math.isnan(self.loss) else self.loss


@final
@dataclass(frozen=True, slots=True)
class ExecutedBlock:
    """One slot of a model's layout, and the block there. ``stage`` counts from 0."""

    stage: int
    slot: Instance
    path: str
    module: nn.Module


def executed_blocks(model: nn.Module, layout: Layout) -> tuple[ExecutedBlock, ...]:
    """All blocks of a model in the order of execution."""
    return tuple(
        ExecutedBlock(index, slot, path, model.get_submodule(path))
        for index, stage in enumerate(layout.stages)
        for slot in stage.instances
        for path in (f"{stage.path}.{slot.position}",)
    )


def answer(model: nn.Module, samples: Samples) -> tuple[torch.Tensor, Score]:
    """The summed loss of a batch, differentiable and in float32, and its score."""
    return samples.scored(model(**samples.inputs), samples.labels)


def score_classes(output: Any, labels: torch.Tensor) -> tuple[torch.Tensor, Score]:
    """Cross entropy of (B, K) or (B, N, K) logits; labels that are IGNORED count nothing."""
    logits = output if isinstance(output, torch.Tensor) else output.logits
    chosen = labels != IGNORED
    logits_TK, targets_T = logits[chosen].float(), labels[chosen]
    loss = F.cross_entropy(logits_TK, targets_T, reduction="sum")
    correct = int((logits_TK.argmax(dim=1) == targets_T).sum())
    return loss, Score(float(loss.detach()), len(targets_T), correct)


@torch.no_grad()
def score(model: nn.Module, batches: Sequence[Samples], device: torch.device) -> Score:
    """The score on all samples."""
    return sum((answer(model, batch.to(device))[1] for batch in batches), Score())


def require_finite(found: Score, where: str) -> None:
    """The model has an answer.

    Raises:
        LossNotFinite: NaN or infinity.
    """
    if not math.isfinite(found.loss_sum):
        raise LossNotFinite(
            "the model answers with NaN or infinity, so there is nothing to diagnose",
            where=where,
            hint="its weights are not finite, or it was trained in another numeric range",
        )


@contextmanager
def listening(modules: Sequence[nn.Module], hear: Hear) -> Iterator[None]:
    """Every call of a module is heard while the block runs; nothing is changed."""
    handles = [
        module.register_forward_hook(partial(_tell, hear, order))
        for order, module in enumerate(modules)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tell(hear: Hear, order: int, _: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
    hear(order, inputs[0], output[0] if isinstance(output, tuple) else output)


def exact(x: torch.Tensor) -> torch.Tensor:
    """In float64, on the CPU where the device (Metal) has no such type."""
    return x.cpu().double() if x.device.type == "mps" else x.double()
