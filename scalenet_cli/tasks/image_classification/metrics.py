"""What image classifiers are judged by; the first chooses the best bundle of a run."""

from typing import Final

from scalenet_cli.reports.metrics import Metric

METRICS: Final = (
    Metric(name="top1", label="top-1", unit="%", larger_is_better=True, largest=100),
    Metric(name="top5", label="top-5", unit="%", larger_is_better=True, largest=100),
    Metric(name="loss", label="loss", larger_is_better=False),
)
