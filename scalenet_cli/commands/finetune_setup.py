"""All that a run needs, opened and checked before anything is written."""

from dataclasses import dataclass
from pathlib import Path

from scalenet_cli.bundle.read import Bundle
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.bundle.trained import Start
from scalenet_cli.models.describe import describe
from scalenet_cli.models.start_notes import silence_notes
from scalenet_cli.models.target import target_of
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.training import Recipe, TaskName
from scalenet_cli.reports.base import HeadClasses
from scalenet_cli.tasks import find_task
from scalenet_cli.tasks.options import fill_record
from scalenet_cli.tasks.recipes import load_training_recipe
from scalenet_cli.tasks.requests import FinetuneOptions, Request
from scalenet_cli.training.contents import Look
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.run_record import RunRecord
from scalenet_cli.training.run_training import check_batch
from scalenet_cli.training.training_task import TrainingTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A run before its first step; nothing has been written yet.

    ``look`` tells of the images' bytes; the main rank alone asks, for that may take long.
    """

    going_on: bool
    recipe: Recipe
    start: Start
    task: TrainingTask
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
        lambda source: _set_up(
            source, data, folder=folder, options=options, devices=devices, going_on=going_on
        ),
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
    described = describe(target_of(source))
    kind = described.family.task
    recipe = _recipe(folder if going_on else None, options, kind)
    start = folder.open_start() if going_on else source
    flags = fill_record(
        "finetune", kind, held=(data, options), more=options.task_options, where=str(source.folder)
    )
    request = Request(source=source, described=described, start=start, data=data, flags=flags)
    parts = find_task(kind).prepare_run(request, recipe)
    if going_on:
        folder.require_same(parts.record, recipe, parts.task)
    check_batch(recipe, parts.task, devices, options.work)
    subject = parts.subject()
    notes = parts.notes
    if subject.manifest.trained is None or "gates" not in subject.manifest.trained.groups:
        # New blocks start without effect, and the run may leave it so.
        notes += tuple(silence_notes(described, subject.train))
    return Setup(
        going_on=going_on,
        recipe=recipe,
        start=parts.start,
        task=parts.task,
        record=parts.record,
        subject=subject,
        notes=notes,
        look=parts.look,
        classes=parts.classes,
    )


def _recipe(folder: RunFolder | None, options: FinetuneOptions, kind: TaskName) -> Recipe:
    """A resumed run keeps its recipe; what is given on top must say the same."""
    reference = options.recipe
    if folder is not None and reference is None:
        reference = folder.path / "recipe.yaml"
    return load_training_recipe(reference, options.settings, kind)
