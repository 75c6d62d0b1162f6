"""A training recipe from a file, a shipped name, and settings of the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scalenet_cli.errors import OptionError, PlanError, PlanErrors, PlanSchema, PlanUnreadable
from scalenet_cli.plan.load import read_text, validate
from scalenet_cli.plan.recipes import recipe_path, training_recipe_names
from scalenet_cli.plan.training import (
    DEFAULT_TASK,
    Recipe,
    RecipeTable,
    TaskName,
    current_task_name,
)
from scalenet_cli.plan.yaml_text import dump_yaml, parse_value, parse_yaml


def load_training_recipe(
    reference: str | Path | None,
    settings: Mapping[str, Any] | None = None,
    task: TaskName | None = None,
    *,
    recipes: RecipeTable,
) -> Recipe:
    """The recipe in a file or of a shipped name, with some entries set anew.

    Without a reference it is the task's defaults: the paper's. Without a ``task`` the file says
    which, or it is for image classification. ``recipes`` has the recipe of every task.

    Raises:
        PlanError: every mistake of the file, with its line, or of the settings; or it is for
            another task.
        OptionError: there is no such task.
    """
    task = _current(task, recipes)
    if reference is None:
        recipe: Recipe = recipes[task or DEFAULT_TASK]()
    else:
        recipe = _read_recipe(str(reference), task, recipes)
    if not settings:
        return recipe
    merged = {**recipe.model_dump(mode="json"), **settings}
    text = dump_yaml(merged)
    try:
        return validate(type(recipe), parse_yaml(text, "the settings"))
    except PlanErrors as errors:
        for error in errors.errors:
            _, _, entry = (error.where or "").partition("  ")
            error.where = f"a flag or --set  {entry}".rstrip()
        raise


def recipe_text(recipe: Recipe) -> str:
    """The whole recipe as YAML that :func:`load_training_recipe` reads back."""
    return dump_yaml(recipe.model_dump(mode="json"))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """``key: old -> new`` for every entry that is not the same."""
    before, after = old.model_dump(mode="json"), new.model_dump(mode="json")
    return [f"{key}: {before[key]} -> {after[key]}" for key in before if before[key] != after[key]]


def parse_settings(items: Sequence[str]) -> dict[str, Any]:
    """``key=value`` items with YAML values.

    >>> parse_settings(["lr=1e-3", "opt_betas=[0.9, 0.95]", "aa=null"])
    {'lr': 0.001, 'opt_betas': [0.9, 0.95], 'aa': None}

    Raises:
        OptionError: not of that form, or a key twice.
    """
    settings: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key.isidentifier():
            raise OptionError(
                f"--set {item} is not of the form key=value", hint="for example --set lr=1e-3"
            )
        if key in settings:
            raise OptionError(f"--set gives {key} twice")
        try:
            settings[key] = parse_value(text, "--set")
        except PlanError:
            raise OptionError(f"the value of --set {item} is no YAML value") from None
    return settings


def merge_settings(flags: Mapping[str, Any], items: Sequence[str]) -> dict[str, Any]:
    """Flags that were given, and ``--set`` items.

    Raises:
        OptionError: one entry by both.
    """
    settings = parse_settings(items)
    given = {key: value for key, value in flags.items() if value is not None}
    both = sorted(given.keys() & settings.keys())
    if both:
        raise OptionError(f"{both[0]} is given by its flag and by --set")
    return {**given, **settings}


def _current(task: TaskName | None, recipes: RecipeTable) -> TaskName | None:
    named = current_task_name(task)
    if task is not None and named not in recipes:
        raise OptionError(f"no task is called {task}", hint=f"tasks: {', '.join(recipes)}")
    return named


def _read_recipe(reference: str, task: TaskName | None, recipes: RecipeTable) -> Recipe:
    path = Path(reference)
    text = read_text(path)
    if text is None and not path.suffix:
        path = recipe_path(reference, list(training_recipe_names()))
        text = read_text(path)
    if text is None:
        raise PlanUnreadable(
            "there is no such recipe file",
            where=reference,
            hint="`scalenet recipes` lists the recipes that ship with scalenet",
        )
    parsed = parse_yaml(text, str(path))
    if not isinstance(parsed.data, dict):
        raise PlanSchema("a recipe is a mapping of keys to values", where=parsed.where(()))
    named = current_task_name(parsed.data.get("task", task or DEFAULT_TASK))
    known = named if isinstance(named, str) and named in recipes else None
    if known is not None and task not in {None, known}:
        raise PlanSchema(
            f"the recipe is for {known}, but the model's task is {task}",
            where=parsed.where(("task",)),
            hint=f"`scalenet recipes` lists those for {task}",
        )
    return validate(recipes[known or task or DEFAULT_TASK], parsed)
