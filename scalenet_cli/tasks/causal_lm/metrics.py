"""What language models are judged by; the first chooses the best bundle of a run."""

from typing import Final

from scalenet_cli.reports.metrics import Metric

METRICS: Final = (
    Metric(name="perplexity", label="perplexity", larger_is_better=False),
    Metric(name="loss", label="loss", larger_is_better=False),
    Metric(name="bits_per_byte", label="bits per byte", larger_is_better=False),
    Metric(name="acc", label="accuracy", larger_is_better=True, largest=1),
    Metric(name="acc_norm", label="accuracy by length", larger_is_better=True, largest=1),
)
