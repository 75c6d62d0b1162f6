"""The training recipes of all tasks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scalenet_cli.plan import load_training
from scalenet_cli.plan.training import RecipeTable, TaskName, TrainingRecipe
from scalenet_cli.tasks import TASKS, find_task


def recipe_table() -> RecipeTable:
    """Task -> its recipe."""
    return {name: find_task(name).recipe for name in TASKS}


def load_training_recipe(
    reference: str | Path | None,
    settings: Mapping[str, Any] | None = None,
    task: TaskName | None = None,
) -> TrainingRecipe:
    """The recipe in a file or of a shipped name, with some entries set to other values.

    Without a reference it is the task's defaults: the paper's. Without a ``task`` the file says
    which, or it is for image classification.

    Raises:
        PlanError: every mistake of the file, with its line, or of the settings; or it is for
            another task.
        OptionError: there is no such task.
    """
    return load_training.load_training_recipe(reference, settings, task, recipes=recipe_table())
