"""What the blocks that were added are worth after a training."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Literal

from pydantic import Field

from scalenet_cli.plan.schema import Group
from scalenet_cli.reports.base import Report

if TYPE_CHECKING:
    from scalenet_cli.measure.strength import Strength

# Nats of the validation loss: what changes it less, and top-1 by less than its standard error, is
# called nothing. A classifier that answers badly has a large loss, which any change moves; there it
# has to be this share of the loss as well.
_LOSS: Final = 0.01
_SHARE: Final = 0.01
Verdict = Literal["useful", "nothing", "harmful"]


class NewBlocksReport(Report):
    """The last model with and without all blocks that were added, on the validation data.

    Scores are the task's metrics and ``val_loss``, in nats.
    """

    num_blocks: int
    mean_gate: float | None = Field(description="mean absolute gate of new blocks")
    adapter_ratio: float | None = Field(
        description="mean norm of their adapters, as a share of that of the weights beside them"
    )
    scores: dict[str, float]
    scores_without: dict[str, float]
    verdict: Verdict
    advice: str | None = Field(description="what to do, where they are not useful")


def judge_new_blocks(
    num_blocks: int,
    strength: "Strength",
    scores: Mapping[str, float],
    without: Mapping[str, float],
    *,
    num_samples: int,
    trained: tuple[Group, ...],
    accuracy: str | None,
) -> NewBlocksReport:
    """The report on new blocks; scores are of ``num_samples``, ``trained`` are groups.

    ``accuracy`` names the score that says, in per cent, how many samples are right, if any does.
    """
    verdict = _verdict(scores, without, num_samples, accuracy)
    return NewBlocksReport(
        num_blocks=num_blocks,
        mean_gate=strength.gate,
        adapter_ratio=strength.adapter,
        scores=dict(scores),
        scores_without=dict(without),
        verdict=verdict,
        advice=_advice(verdict, strength, trained),
    )


def _verdict(
    scores: Mapping[str, float],
    without: Mapping[str, float],
    num_samples: int,
    accuracy: str | None,
) -> Verdict:
    """What the loss says, or else the accuracy, where there is one."""
    gain = without["val_loss"] - scores["val_loss"]
    if not math.isfinite(gain):
        return "useful"  # without them the model has no answer
    bar = max(_LOSS, _SHARE * scores["val_loss"]) if accuracy else _LOSS
    if abs(gain) >= bar:
        return "useful" if gain > 0 else "harmful"
    if accuracy:
        share = scores[accuracy] / 100
        points = scores[accuracy] - without[accuracy]
        if abs(points) > 100 * (share * (1 - share) / num_samples) ** 0.5:
            return "useful" if points > 0 else "harmful"
    return "nothing"


def _advice(verdict: Verdict, strength: "Strength", trained: tuple[Group, ...]) -> str | None:
    if verdict == "useful":
        return None
    if verdict == "harmful":
        return "the model is better without the new blocks: train longer, or at a lower rate"
    if strength.gate is None:
        remedy = "train longer or on more data, or at a higher learning rate"
    elif "gates" in trained:
        remedy = (
            "train longer or on more data, or raise the rate of gates, as with "
            "--set lr_scale='{gates: 10}'"
        )
    else:
        remedy = "train gates as well"
    return f"the new blocks learned next to nothing: {remedy}"
