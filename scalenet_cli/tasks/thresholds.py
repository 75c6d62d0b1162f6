"""``--fail-under``: what an evaluation has to reach."""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from scalenet_cli.errors import OptionError, ThresholdMissed
from scalenet_cli.reports.metrics import Metric
from scalenet_cli.tasks import find_task

OPTION: Final = "--fail-under"


def parse_thresholds(text: str, task: str) -> dict[str, float]:
    """``top1=82.5,top5=96,loss=0.9``: at least or at most, as the metrics of the task are better.

    >>> parse_thresholds("top1=82.5,loss=0.9", "image-classification")
    {'top1': 82.5, 'loss': 0.9}

    Raises:
        OptionError: an unknown or repeated name, or a number that cannot be.
    """
    metrics = _metrics(task)
    found: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        if name not in metrics or not equals:
            raise _wrong(f"{item.strip() or 'nothing'} is no threshold", task)
        if name in found:
            raise _wrong(f"{name} stands twice", task)
        try:
            value = float(number) if number.isascii() else math.nan
        except ValueError:
            value = math.nan
        largest = metrics[name].largest
        if "_" in number or not 0 <= value <= (math.inf if largest is None else largest):
            allowed = "0 or more" if largest is None else f"from 0 to {largest:g}"
            raise _wrong(f"{name} is {number or 'nothing'}, and has to be {allowed}", task)
        found[name] = value
    return found


def require_thresholds(
    results: Sequence[tuple[str, Mapping[str, float]]], wanted: Mapping[str, float], task: str
) -> None:
    """Every result that has a metric reaches its threshold; one that is met exactly is.

    A result is a place, empty where there is only one, and metrics by name.

    Raises:
        OptionError: no result has the metric.
        ThresholdMissed: all that are not reached, with both numbers.
    """
    metrics = _metrics(task)
    missed = []
    for name, limit in wanted.items():
        values = [(place, found[name]) for place, found in results if name in found]
        if not values:
            raise OptionError(f"{OPTION} names {name}, which was not measured")
        at_least = metrics[name].larger_is_better
        for place, value in values:
            if not (value >= limit if at_least else value <= limit):
                bound = "at least" if at_least else "at most"
                of = f" on {place}" if place else ""
                fact = f"{name}{of} is {value:.10g}, but {OPTION} wants {bound} {limit:.10g}"
                missed.append(fact)
    if missed:
        raise ThresholdMissed("; ".join(missed))


def _metrics(task: str) -> dict[str, Metric]:
    return {metric.name: metric for metric in find_task(task).metrics}


def _wrong(fact: str, task: str) -> OptionError:
    return OptionError(f"{OPTION}: {fact}", hint=find_task(task).threshold_examples)
