"""All that a run needs, opened and checked before anything is written."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from scalenet_cli.bundle.read import Bundle
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.bundle.trained import Start
from scalenet_cli.families import family as find_family
from scalenet_cli.models.start_notes import silence_notes
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.load_training import load_training_recipe
from scalenet_cli.plan.training import ImageRecipe, LanguageRecipe, Recipe, TaskName
from scalenet_cli.reports.base import HeadClasses
from scalenet_cli.tasks.base import FinetuneOptions, Request
from scalenet_cli.training.contents import Look
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.run_record import RunRecord
from scalenet_cli.training.run_training import check_batch
from scalenet_cli.training.training_task import Task


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
    subject: TrainedModel
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
    kind = cast(TaskName, find_family(source.manifest.source.family).task)
    recipe = _recipe(folder if going_on else None, options, kind)
    request = Request(source, folder.start if going_on else source.folder, data, options)
    # Each task's own module, because the other's libraries may not be installed.
    if kind == "images":
        from scalenet_cli.tasks.image_classification.prepare_run import prepare_images

        parts = prepare_images(request, cast(ImageRecipe, recipe))
    else:
        from scalenet_cli.tasks.causal_lm.prepare_run import prepare_language

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


def _silence(subject: TrainedModel) -> Iterator[str]:
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
