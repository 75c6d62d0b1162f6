"""What models are for: one folder per task, and the table of them.

A task's module is imported on first use: it brings its libraries along.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final, cast

from scalenet_cli.reports.metrics import Metric

if TYPE_CHECKING:
    from scalenet_cli.tasks.base import Task

TASKS: Final[Mapping[str, str]] = {
    "image-classification": "scalenet_cli.tasks.image_classification.task:IMAGE_CLASSIFICATION",
    "causal-lm": "scalenet_cli.tasks.causal_lm.task:CAUSAL_LM",
}


def find_task(name: str) -> "Task":
    """The task of that name, which is a key of TASKS: what families and records have."""
    module, attribute = TASKS[name].split(":")
    return cast("Task", getattr(import_module(module), attribute))


def task_judged_by(metric: str) -> "Task":
    """The task whose first metric has this name, as reports of runs, studies and diagnoses have it.

    Raises:
        LookupError: no task is judged by it.
    """
    for task in map(find_task, TASKS):
        if task.metrics[0].name == metric:
            return task
    raise LookupError(metric)


def find_metric(name: str) -> Metric:
    """The metric that a report or a run names; one that no task knows is shown by its name."""
    for task in map(find_task, TASKS):
        for metric in task.metrics:
            if metric.name == name:
                return metric
    return Metric(name=name, label=name, larger_is_better=True)
