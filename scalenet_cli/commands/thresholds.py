"""``--fail-under``: what an evaluation has to reach."""

import math
from collections.abc import Mapping
from typing import Final

from scalenet_cli.errors import OptionError, ThresholdMissed

OPTION: Final = "--fail-under"
# Of accuracies in per cent more is better; of the loss, less.
ACCURACIES: Final = ("top1", "top5")
LOSS: Final = "loss"


def parse_thresholds(text: str) -> dict[str, float]:
    """``top1=82.5,top5=96,loss=0.9``: at least, at least, at most.

    >>> parse_thresholds("top1=82.5,loss=0.9")
    {'top1': 82.5, 'loss': 0.9}

    Raises:
        OptionError: an unknown or repeated name, or a number that cannot be.
    """
    found: dict[str, float] = {}
    for item in text.split(","):
        name, equals, number = (part.strip() for part in item.partition("="))
        if name not in (*ACCURACIES, LOSS) or not equals:
            raise _wrong(f"{item.strip() or 'nothing'} is no threshold")
        if name in found:
            raise _wrong(f"{name} stands twice")
        try:
            value = float(number) if number.isascii() else math.nan
        except ValueError:
            value = math.nan
        if "_" in number or not 0 <= value <= (math.inf if name == LOSS else 100):
            raise _wrong(
                f"{name} is {number or 'nothing'}, and has to be "
                + ("0 or more" if name == LOSS else "from 0 to 100")
            )
        found[name] = value
    return found


def _wrong(fact: str) -> OptionError:
    return OptionError(
        f"{OPTION}: {fact}",
        hint="for example top1=82.5,top5=96 (per cent, at least) or loss=0.9 (at most)",
    )


def require_thresholds(found: Mapping[str, float], wanted: Mapping[str, float]) -> None:
    """Every threshold is reached; one that is met exactly is.

    Raises:
        ThresholdMissed: all that are not, with both numbers.
    """
    missed = []
    for name, limit in wanted.items():
        value = found[name]
        if not (value <= limit if name == LOSS else value >= limit):
            bound = "at most" if name == LOSS else "at least"
            missed.append(f"{name} is {value:.10g}, but {OPTION} wants {bound} {limit:.10g}")
    if missed:
        raise ThresholdMissed("; ".join(missed))
