"""Histograms of what blocks put out."""

# Shape legend: V values.

from dataclasses import dataclass
from typing import Final, final

import torch

from scalenet_cli.measure.model_outputs import exact

# The paper's: values are clipped to [-10, 10].
CLIP: Final = 10.0
NUM_BINS: Final = 100


@final
@dataclass(frozen=True, slots=True)
class Histogram:
    """Values of one block's output, over samples, tokens and channels.

    ``counts`` are of NUM_BINS equal bins over [-CLIP, CLIP]; values beyond are in the outer bins,
    and in ``num_beyond``. ``mean`` and ``std`` are of the values as they are.
    """

    counts: tuple[int, ...]
    num_values: int
    num_beyond: int
    mean: float
    std: float


@final
class HistogramSum:
    """Adds up the values of several batches; counts are exact whatever their number."""

    def __init__(self) -> None:
        self._counts = torch.zeros(NUM_BINS, dtype=torch.int64)
        self._moments = torch.zeros(2, dtype=torch.float64)
        self._num_values = self._num_beyond = 0

    def add(self, values: torch.Tensor) -> None:
        """Values of any shape."""
        values_V = exact(values).flatten()
        # Not torch.histc: it counts in the type of the values, and float32 ends at 2**24.
        places_V = ((values_V.clamp(-CLIP, CLIP) + CLIP) * (NUM_BINS / (2 * CLIP))).long()
        self._counts += places_V.clamp(max=NUM_BINS - 1).bincount(minlength=NUM_BINS).cpu()
        self._moments += torch.stack([values_V.sum(), values_V.square().sum()]).cpu()
        self._num_values += values_V.numel()
        self._num_beyond += int((values_V.abs() > CLIP).sum())

    def result(self) -> Histogram:
        """The histogram of everything that was added."""
        mean, square = (self._moments / self._num_values).tolist()
        return Histogram(
            counts=tuple(self._counts.tolist()),
            num_values=self._num_values,
            num_beyond=self._num_beyond,
            mean=mean,
            std=max(square - mean**2, 0.0) ** 0.5,
        )


def sampled_depths(num_blocks: int, count: int) -> tuple[int, ...]:
    """Uniformly spaced blocks, the first and the last included.

    >>> sampled_depths(12, 5)
    (0, 3, 6, 8, 11)
    """
    chosen = min(count, num_blocks)
    if chosen == 1:
        return (num_blocks - 1,)
    return tuple(round(at * (num_blocks - 1) / (chosen - 1)) for at in range(chosen))
