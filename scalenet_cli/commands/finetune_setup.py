"""All that a run needs, opened and checked before anything is written."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from scalenet_cli import __version__
from scalenet_cli.bundle.read import Bundle
from scalenet_cli.bundle.reports import HeadClasses
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.bundle.trained import Start
from scalenet_cli.commands.start_notes import silence_notes
from scalenet_cli.errors import OptionError
from scalenet_cli.families import family as find_family
from scalenet_cli.plan.load_training import load_training_recipe
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.plan.training import ImageRecipe, LanguageRecipe, Recipe, TaskName
from scalenet_cli.training.contents import Look
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.run_record import RunRecord
from scalenet_cli.training.session import Work, check_batch
from scalenet_cli.training.subject import Subject
from scalenet_cli.training.task import Task


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """What a run needs beside bundle, data and output.

    ``settings`` are recipe entries that win over those of ``recipe``, which is a file or a shipped
    name. ``num_classes`` or ``reset_head`` put a new head on an image classifier; by default a
    number of classes that is not the model's does. ``ablation`` evaluates the trained model once
    more without the blocks that were added.
    """

    recipe: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    num_classes: int | None = None
    reset_head: bool = False
    device: str = "auto"
    work: Work = field(default_factory=Work)
    ablation: bool = True


@dataclass(frozen=True, slots=True)
class Setup:
    """A run before its first step; nothing has been written yet.

    ``look`` tells of the images' bytes; the main rank alone asks, for that may take long.
    """

    going_on: bool
    recipe: Recipe
    start: Start
    task: Task
    record: RunRecord
    subject: Subject
    notes: tuple[str, ...] = ()
    look: Look | None = None
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
    look: Look | None = None
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
    if going_on:
        folder.require_own()
    else:
        folder.require_absent()
    return read_steadily(
        Path(bundle),
        lambda source: _set_up(source, data, folder, options, devices, going_on=going_on),
    )


def _set_up(
    source: Bundle,
    data: DataOptions,
    folder: RunFolder,
    options: FinetuneOptions,
    devices: Devices,
    *,
    going_on: bool,
) -> Setup:
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
    notes = (*parts.notes, *_silence(subject))
    return Setup(
        going_on, recipe, parts.start, parts.task, parts.record, subject, notes, parts.look,
        parts.classes,
    )  # fmt: skip


def _silence(subject: Subject) -> Iterator[str]:
    """A note where new blocks start without effect, and the run leaves it so."""
    manifest = subject.manifest
    if manifest.trained is None or "gates" not in manifest.trained.groups:
        yield from silence_notes(
            manifest.plan, subject.model, subject.layout, subject.family, subject.groups,
            subject.train,
        )  # fmt: skip


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
        OptionError: the model has no tensors of a group, or `lr_scale` names one that rests.
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
    trained = tuple(g for g in GROUPS if g in wanted or (new_head and g == "head"))
    idle = [group for group in recipe.lr_scale if group not in trained]
    if idle:
        raise OptionError(
            f"lr_scale names {idle[0]}, but no such tensors are trained",
            hint=f"groups that are trained: {', '.join(trained)}",
        )
    return trained
