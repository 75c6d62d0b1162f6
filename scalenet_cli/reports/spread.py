"""Several values of one thing: over measurements, or over seeds."""

from collections.abc import Sequence
from math import hypot, sqrt

from scalenet_cli.reports.base import Report


class Spread(Report):
    """The middle and both ends of several measurements."""

    median: float
    min: float
    max: float


class SeedSpread(Report):
    """A value over seeds; ``std`` is the sample's (n - 1), None of one seed."""

    mean: float
    std: float | None
    min: float
    max: float
    num_seeds: int


def spread_over(found: Sequence[float | None]) -> SeedSpread | None:
    """Mean, deviation and range of what is known; None where nothing is."""
    values = [value for value in found if value is not None]
    if not values:
        return None
    mean = sum(values) / len(values)
    std = None
    if len(values) > 1:
        # A perplexity may be as large as 1e304, whose square is no float.
        std = hypot(*(value - mean for value in values)) / sqrt(len(values) - 1)
    return SeedSpread(mean=mean, std=std, min=min(values), max=max(values), num_seeds=len(values))


def spread_text(spread: SeedSpread | None) -> str:
    """Mean and standard deviation; a dash where nothing is known."""
    if spread is None:
        return "-"
    return _short(spread.mean) + ("" if spread.std is None else f" +- {_short(spread.std)}")


def _short(value: float) -> str:
    """Two places after the point, and few digits of a huge value.

    >>> _short(51.237), _short(3.1e300)
    ('51.24', '3.1e+300')
    """
    return f"{value:.2f}" if abs(value) < 1e6 else f"{value:.4g}"
