"""What a study's arms are trained on, opened once and checked before anything is written."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from scalenet_cli.errors import PlanSchema, ScalenetError
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import Family
from scalenet_cli.models.describe import build_base
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import Target, open_checkpoint
from scalenet_cli.plan.load_study import StudyDocument
from scalenet_cli.plan.load_training import recipe_text
from scalenet_cli.plan.training import Recipe, TaskName
from scalenet_cli.tasks import find_task
from scalenet_cli.tasks.options import foreign_options, task_options
from scalenet_cli.tasks.requests import DataRequest
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_record import SplitRecord
from scalenet_cli.training.run_training import Work, check_batch
from scalenet_cli.training.training_task import TrainingTask

if TYPE_CHECKING:
    from torch import nn


# Of timm's data config, what SourceOptions.model_kwargs takes.
_PREPROCESSING: Final = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size")
BASE_PLAN: Final[dict[str, Any]] = {
    "version": 1,
    "mapping": "stack",
    "factor": 1,
    "adapter": {"type": "none"},
    "start": "copy",
    "train": "all",
}


@dataclass(frozen=True, slots=True)
class StudySource:
    """The source without its weights. ``base`` has the head that the data need."""

    target: Target
    base: "nn.Module"

    @property
    def reference(self) -> str:
        """As the study names it, from this process's folder."""
        return self.target.reference

    @property
    def options(self) -> SourceOptions:
        """How to read it."""
        return self.target.options

    @property
    def family(self) -> Family:
        """Of its model."""
        return self.target.family

    @property
    def architecture(self) -> Architecture:
        """What is built."""
        return self.target.architecture

    @property
    def task(self) -> TaskName:
        """What its models are trained for."""
        return self.family.task

    def digest(self) -> str | None:
        """sha256 of the checkpoint's files; None of weights that are drawn or downloaded.

        So a study notices that its source was trained on since its first cells.
        """
        place = Path(self.reference)
        if self.options.random_weights or not place.exists():
            return None
        found = hashlib.sha256()
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if path.is_file():
                with path.open("rb") as file:
                    found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()

    def scratch(self) -> tuple[str, SourceOptions]:
        """How the same model is opened with random weights."""
        if self.family.input_unit == "tokens" or self.reference.startswith("timm:"):
            options = SourceOptions(self.options.arch, self.options.model_kwargs, True)
            return self.reference, options
        arguments = {**self.architecture.arguments, **self.options.model_kwargs}
        assert self.target.source is not None
        known = self.target.source.preprocessing
        shown = {key: known[key] for key in _PREPROCESSING if key in known}
        named = f"timm:{self.architecture.name}"
        return named, SourceOptions(None, {**shown, **arguments}, True)


def open_study_source(document: StudyDocument) -> StudySource:
    """The study's source, understood but not read.

    Raises:
        CheckpointError, OptionError: it cannot be used.
        PlanSchema: the data have an entry that is for another kind of source.
    """
    study = document.study
    reference = document.place(study.source)
    options = SourceOptions(study.arch, study.model_kwargs, study.random_weights)
    target = open_checkpoint(reference, options)
    _refuse_other_task(document, target.family.task)
    return StudySource(target, build_base(target))


def _refuse_other_task(document: StudyDocument, task: TaskName) -> None:
    """Entries of the data that would mean nothing for this source."""
    data = document.study.data
    given = {one for one in type(data).model_fields if getattr(data, one)}
    for one, models in foreign_options("finetune", given, task):
        raise PlanSchema(
            f"`{one.name}` is for {models}, but the source is one of the "
            f"{task_options(task).models}",
            where=document.where("data", one.name),
            hint="leave it out",
        )


def data_options(document: StudyDocument) -> DataOptions:
    """The study's data as finetune takes them."""
    data = document.study.data
    return DataOptions(
        data=document.place(data.path),
        dataset=data.dataset,
        train_split=data.train_split,
        val_split=data.val_split,
        limit_train=data.limit_train,
        limit_val=data.limit_val,
        class_map=None if data.class_map is None else document.place(data.class_map),
        val_data=None if data.val_data is None else document.place(data.val_data),
        skip_corrupt=data.skip_corrupt,
        tokenizer=None if data.tokenizer is None else document.place(data.tokenizer),
    )


@dataclass(frozen=True, slots=True)
class DataRecord:
    """Which samples both splits have, as a run's record says it."""

    train: SplitRecord
    val: SplitRecord


@final
class TaskMaker:
    """The training task of each arm; arms with the same recipe share one."""

    def __init__(
        self, document: StudyDocument, source: StudySource, devices: Devices, work: Work
    ) -> None:
        self._devices, self._work = devices, work
        data = document.study.data
        self._data = find_task(source.task).open_data(
            DataRequest(
                target=source.target,
                model=source.base,
                data=data_options(document),
                num_classes=data.num_classes,
                reset_head=data.reset_head,
            )
        )
        self._made: dict[str, TrainingTask] = {}

    @property
    def new_head(self) -> bool:
        """Whether every arm gets a new head, which is trained whatever the plan says."""
        return self._data.new_head

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done about the data, where the user should hear of it."""
        return self._data.notes

    def make(self, recipe: Recipe, where: str) -> TrainingTask:
        """The task of a recipe, whose batches fit the data and the devices.

        Raises:
            DataError, OptionError: they do not; ``where`` names the arm.
        """
        key = recipe_text(recipe)
        try:
            if key not in self._made:
                self._made[key] = self._data.training_task(recipe)
            check_batch(recipe, self._made[key], self._devices, self._work)
        except ScalenetError as error:
            error.where = f"{where}: {error.where}" if error.where else where
            raise
        return self._made[key]

    def record(self, recipe: Recipe) -> DataRecord:
        """Which samples the task of a recipe has.

        Raises:
            DataError, OptionError: the data cannot be used.
        """
        return DataRecord(*self._data.records(recipe))
