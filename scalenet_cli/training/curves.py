"""A run's metrics as a picture."""

import json
from pathlib import Path
from typing import Any, Final

from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.reports.metrics import Metric

# Of an evaluation's line, what is no metric of the task.
NO_METRICS: Final = ("step", "epoch", "train_loss", "val_loss")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def draw_curves(metrics: Path, picture: Path, metric: Metric) -> None:
    """Loss and metrics over epochs, of which ``metric`` is the task's first; 10 x 4 inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read_metrics(metrics)
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "val_loss" in line]
    names = [name for name in evaluations[0] if name not in NO_METRICS] if evaluations else []
    figure = Figure(figsize=(10, 4))
    FigureCanvasAgg(figure)
    # Margins with room for every label: a layout engine would draw the picture twice.
    figure.subplots_adjust(left=0.08, right=0.98, bottom=0.14, top=0.95, wspace=0.2)
    left, right = figure.subplots(1, 2)
    left.plot(_column(steps, "epoch"), _column(steps, "loss"), lw=0.8, label="training, per step")
    left.plot(
        _column(evaluations, "epoch"), _column(evaluations, "val_loss"), "o-", label="validation"
    )
    left.set(xlabel="epoch", ylabel="loss")
    for name in names:
        right.plot(_column(evaluations, "epoch"), _column(evaluations, name), "o-", label=name)
    right.set(xlabel="epoch", ylabel="accuracy, %" if metric.is_share else ", ".join(names))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    with staged_file(picture, failure="it cannot be written") as staging:
        figure.savefig(staging, format="png", dpi=120, metadata={"Software": None})


def _column(lines: list[dict[str, Any]], name: str) -> list[float]:
    return [line[name] for line in lines]
