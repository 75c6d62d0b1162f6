"""All that a run needs, opened and checked before anything is written."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from scalenet_cli import __version__
from scalenet_cli.bundle.read import Bundle, bundle_folder, open_bundle
from scalenet_cli.bundle.reports import HeadClasses
from scalenet_cli.bundle.trained import Start
from scalenet_cli.errors import OptionError
from scalenet_cli.families import family as find_family
from scalenet_cli.plan.load_training import load_training_recipe
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.plan.training import ImageRecipe, LanguageRecipe, Recipe, TaskName
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_folder import RunFolder, RunRecord
from scalenet_cli.training.session import Work, check_batch
from scalenet_cli.training.subject import Subject
from scalenet_cli.training.task import Task


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """What a run needs beside bundle, data and output.

    ``settings`` are recipe entries that win over those of ``recipe``, which is a file or a shipped
    name. ``num_classes`` or ``reset_head`` put a new head on an image classifier; by default a
    number of classes that is not the model's does.
    """

    recipe: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    num_classes: int | None = None
    reset_head: bool = False
    device: str = "auto"
    work: Work = field(default_factory=Work)


@dataclass(frozen=True, slots=True)
class Setup:
    """A run before its first step; nothing has been written yet."""

    going_on: bool
    recipe: Recipe
    start: Start
    task: Task
    record: RunRecord
    subject: Subject
    notes: tuple[str, ...] = ()
    classes: HeadClasses | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as each kind of task gets it. ``start`` is the bundle to train from."""

    source: Bundle
    start: Path
    data: DataOptions
    options: FinetuneOptions


@dataclass(frozen=True, slots=True)
class Parts:
    """What a kind of task makes of a request. ``subject`` reads the weights.

    ``classes`` says how it is known which classes the head of an image classifier answers.
    """

    start: Start
    task: Task
    record: RunRecord
    subject: Callable[[], Subject]
    notes: tuple[str, ...] = ()
    classes: HeadClasses | None = None


def set_up(
    bundle: str | Path,
    data: DataOptions,
    folder: RunFolder,
    options: FinetuneOptions,
    devices: Devices,
) -> Setup:
    """Whatever can be found wrong before a run is made or touched.

    Raises:
        ScalenetError: it is.
    """
    going_on = options.resume and folder.exists()
    if not going_on:
        folder.require_absent()
    source = open_bundle(bundle_folder(Path(bundle)))
    kind = find_family(source.manifest.source.family).task
    recipe = _recipe(folder if going_on else None, options, kind)
    request = Request(source, folder.start if going_on else source.folder, data, options)
    # Each task's own module, because the other's libraries may not be installed.
    if kind == "images":
        from scalenet_cli.commands.finetune_images import prepare_images

        parts = prepare_images(request, cast(ImageRecipe, recipe))
    else:
        from scalenet_cli.commands.finetune_language import prepare_language

        parts = prepare_language(request, cast(LanguageRecipe, recipe))
    if going_on:
        folder.require_same(parts.record, recipe)
    check_batch(recipe, parts.task, devices, options.work)
    subject = parts.subject()
    return Setup(
        going_on,
        recipe,
        parts.start,
        parts.task,
        parts.record,
        subject,
        parts.notes,
        parts.classes,
    )


def _recipe(folder: RunFolder | None, options: FinetuneOptions, kind: TaskName) -> Recipe:
    """A resumed run keeps its recipe; what is given on top must say the same."""
    reference = options.recipe
    if folder is not None and reference is None:
        reference = folder.path / "recipe.yaml"
    return load_training_recipe(reference, options.settings, kind)


def tool_name() -> str:
    """What a run's record says of the program that began it."""
    return f"scalenet-cli {__version__}"


def train_set(
    groups: Mapping[str, Group],
    planned: tuple[Group, ...],
    recipe: Recipe,
    *,
    new_head: bool = False,
) -> tuple[Group, ...]:
    """The recipe's groups, or else the planned ones; a new head is always one of them.

    ``groups`` has that of every tensor of the model.

    Raises:
        OptionError: the model has no tensors of a group.
    """
    present = set(groups.values())
    wanted = set(planned)
    if recipe.train is not None:
        wanted = set(present) if recipe.train == "all" else set(recipe.train)
    lacking = [group for group in GROUPS if group in wanted - present]
    if lacking:
        raise OptionError(
            f"train names {lacking[0]}, but the model has no such tensors",
            hint=f"groups of this model: {', '.join(g for g in GROUPS if g in present)}",
        )
    return tuple(g for g in GROUPS if g in wanted or (new_head and g == "head"))
