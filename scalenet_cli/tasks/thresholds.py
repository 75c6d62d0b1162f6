"""``--fail-under``: what an evaluation has to reach."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from scalenet_cli.errors import OptionError, ThresholdMissed
from scalenet_cli.tasks.find_task import TargetTask

OPTION: Final = "--fail-under"
# Of these more is better, up to the largest value that they can have.
_LARGEST: Final[Mapping[TargetTask, Mapping[str, float]]] = {
    "image-classification": {"top1": 100, "top5": 100},
    "causal-lm": {"acc": 1, "acc_norm": 1},
}
# Of these less is better.
_LIMITS: Final[Mapping[TargetTask, tuple[str, ...]]] = {
    "image-classification": ("loss",),
    "causal-lm": ("perplexity", "loss", "bits_per_byte"),
}
_HINTS: Final[Mapping[TargetTask, str]] = {
    "image-classification": "for example top1=82.5,top5=96 (per cent, at least) or loss=0.9 (at "
    "most)",
    "causal-lm": "for example perplexity=30 (also loss and bits_per_byte; at most) or acc=0.6 "
    "(also acc_norm; a share, at least)",
}


def parse_thresholds(text: str, task: TargetTask = "image-classification") -> dict[str, float]:
    """``top1=82.5,top5=96,loss=0.9``: at least, at least, at most.

    >>> parse_thresholds("top1=82.5,loss=0.9")
    {'top1': 82.5, 'loss': 0.9}

    Raises:
        OptionError: an unknown or repeated name, or a number that cannot be.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        if name not in (*_LARGEST[task], *_LIMITS[task]) or not equals:
            raise _wrong(f"{item.strip() or 'nothing'} is no threshold", task)
        if name in found:
            raise _wrong(f"{name} stands twice", task)
        try:
            value = float(number) if number.isascii() else math.nan
        except ValueError:
            value = math.nan
        largest = _LARGEST[task].get(name, math.inf)
        if "_" in number or not 0 <= value <= largest:
            allowed = "0 or more" if largest == math.inf else f"from 0 to {largest:g}"
            raise _wrong(f"{name} is {number or 'nothing'}, and has to be {allowed}", task)
        found[name] = value
    return found


def _wrong(fact: str, task: TargetTask) -> OptionError:
    return OptionError(f"{OPTION}: {fact}", hint=_HINTS[task])


def require_thresholds(
    results: Sequence[tuple[str, Mapping[str, float]]],
    wanted: Mapping[str, float],
    task: TargetTask = "image-classification",
) -> None:
    """Every result that has a metric reaches its threshold; one that is met exactly is.

    A result is a place, empty where there is only one, and metrics by name.

    Raises:
        OptionError: no result has the metric.
        ThresholdMissed: all that are not reached, with both numbers.
    """
    missed = []
    for name, limit in wanted.items():
        values = [(place, found[name]) for place, found in results if name in found]
        if not values:
            raise OptionError(f"{OPTION} names {name}, which was not measured")
        for place, value in values:
            if not (value <= limit if name in _LIMITS[task] else value >= limit):
                bound = "at most" if name in _LIMITS[task] else "at least"
                of = f" on {place}" if place else ""
                fact = f"{name}{of} is {value:.10g}, but {OPTION} wants {bound} {limit:.10g}"
                missed.append(fact)
    if missed:
        raise ThresholdMissed("; ".join(missed))
