"""Perplexity of the answers of records: what validation measures while a model is trained."""

import math
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from scalenet_cli.language.scoring import Progress, Span, perplexity_of, score
from scalenet_cli.language.sequences import Sequences
from scalenet_cli.training.devices import Devices


@final
@dataclass(frozen=True)
class Answers:
    """The sum over all targets, in nats, and how many there are."""

    num_targets: int
    loss_sum: float

    @property
    def loss(self) -> float:
        """Mean of -log p over all targets, in nats."""
        return self.loss_sum / self.num_targets

    @property
    def perplexity(self) -> float:
        """Infinity where a float64 cannot hold it."""
        return perplexity_of(self.loss)


def measure_answers(
    model: Any,
    sequences: Sequences,
    devices: Devices,
    *,
    batch_size: int,
    place: str,
    progress: Progress | None = None,
) -> Answers:
    """How well a model predicts the targets of sequences, each by itself.

    Raises:
        LossNotFinite: the model answers NaN or infinity.
    """
    spans = []
    for begin, end in zip(sequences.bounds, sequences.bounds[1:], strict=False):
        targets = np.flatnonzero(sequences.is_target[begin:end])
        spans.append(Span(sequences.tokens[begin:end].tolist(), tuple(targets.tolist()), place))
    scores = score(model, spans, devices, batch_size=batch_size, progress=progress)
    return Answers(sum(len(span.targets) for span in spans), -math.fsum(scores))
