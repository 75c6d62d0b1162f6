"""What a study's arms are trained on, opened once and checked before anything is written."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, final

from scalenet_cli.errors import PlanSchema, ScalenetError
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Architecture, Family
from scalenet_cli.families.sources import Source, open_source
from scalenet_cli.models.describe import build_base
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.load_study import StudyDocument
from scalenet_cli.plan.load_training import recipe_text
from scalenet_cli.plan.training import ImageRecipe, LanguageRecipe, Recipe, TaskName
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.run_record import SplitRecord
from scalenet_cli.training.run_training import Work, check_batch
from scalenet_cli.training.training_task import Task

if TYPE_CHECKING:
    from torch import nn

    from scalenet_cli.tasks.causal_lm.data.corpus import Corpus
    from scalenet_cli.tasks.image_classification.head import Head

# Of timm's data config, what SourceOptions.model_kwargs takes.
_PREPROCESSING: Final = ("mean", "std", "interpolation", "crop_pct", "crop_mode", "input_size")
# What of a study's data is for one task only.
_ONLY_FOR: Final[dict[TaskName, tuple[str, ...]]] = {
    "images": ("dataset", "class_map", "num_classes", "reset_head", "skip_corrupt"),
    "language": ("val_data", "tokenizer"),
}
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

    reference: str
    options: SourceOptions
    source: Source
    family: Family
    base: "nn.Module"

    @property
    def architecture(self) -> Architecture:
        """What is built."""
        return self.source.architecture

    @property
    def task(self) -> TaskName:
        """What its models are trained for."""
        return cast(TaskName, self.family.task)

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
        if self.family.task == "language" or self.reference.startswith("timm:"):
            options = SourceOptions(self.options.arch, self.options.model_kwargs, True)
            return self.reference, options
        arguments = {**self.architecture.arguments, **self.options.model_kwargs}
        known = self.source.preprocessing
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
    source = open_source(
        reference, arch=options.arch, arguments=options.model_kwargs, weights=False
    )
    family = find_family(source.architecture.family)
    _refuse_other_task(document, cast(TaskName, family.task))
    base = build_base(source.architecture, family, source, reference)
    return StudySource(reference, options, source, family, base)


def _refuse_other_task(document: StudyDocument, task: TaskName) -> None:
    """Entries of the data that would mean nothing for this source."""
    names = {"images": "image classifiers", "language": "language models"}
    other: TaskName = "language" if task == "images" else "images"
    for key in _ONLY_FOR[other]:
        if getattr(document.study.data, key):
            raise PlanSchema(
                f"`{key}` is for {names[other]}, but the source is one of the {names[task]}",
                where=document.where("data", key),
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


@dataclass(frozen=True, slots=True)
class ImageData:
    """Both splits, and the head that they need. ``config`` is timm's data config."""

    train: Any
    val: Any
    config: dict[str, Any]
    head: "Head"

    def task(self, recipe: Recipe, *, skip_corrupt: bool) -> Task:
        """As an arm is trained on them."""
        from scalenet_cli.tasks.image_classification.training_task import ImageTask

        return ImageTask(
            cast(ImageRecipe, recipe), self.train, self.val, config=self.config,
            num_classes=self.head.num_classes, skip_corrupt=skip_corrupt,
        )  # fmt: skip

    def record(self) -> DataRecord:
        """The samples, of which none is read."""
        from scalenet_cli.tasks.image_classification.data.fingerprint import split_record

        return DataRecord(split_record(self.train), split_record(self.val))


def open_images(document: StudyDocument, source: StudySource) -> ImageData:
    """The images, and whether the source's head fits them; otherwise ``base`` gets a new one.

    Raises:
        DataError, OptionError: they cannot be used.
    """
    from scalenet_cli.tasks.image_classification.data.preprocessing import resolve_preprocessing
    from scalenet_cli.tasks.image_classification.head import ImageFacts, fit_classes, open_splits
    from scalenet_cli.tasks.image_classification.known_classes import source_classes

    data = document.study.data
    config = resolve_preprocessing(source.base)
    num_classes = int(vars(source.base)["num_classes"])
    known = source_classes(source.source, num_classes, is_random=source.options.random_weights)
    facts = ImageFacts(num_classes, config, known)
    train, val = open_splits(data_options(document), facts.channels)
    head = fit_classes(
        facts, train, wanted=data.num_classes, mapped=data.class_map is not None,
        reset=data.reset_head,
    )  # fmt: skip
    if head.is_new:
        source.family.replace_head(source.base, head.num_classes)
    return ImageData(train, val, dict(config), head)


@final
class TaskMaker:
    """The task of each arm; arms with the same recipe share one, and others share what is in it."""

    def __init__(
        self, document: StudyDocument, source: StudySource, devices: Devices, work: Work
    ) -> None:
        self._document, self._source = document, source
        self._devices, self._work = devices, work
        self._images = open_images(document, source) if source.task == "images" else None
        self._made: dict[str, Task] = {}
        self._corpora: dict[tuple[object, ...], Corpus] = {}
        self._records: dict[tuple[object, ...], DataRecord] = {}

    @property
    def new_head(self) -> bool:
        """Whether every arm gets a new head, which is trained whatever the plan says."""
        return self._images is not None and self._images.head.is_new

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done about the head, where the user should hear of it."""
        note = self._images.head.note if self._images is not None else None
        return () if note is None else (note,)

    def make(self, recipe: Recipe, where: str) -> Task:
        """The task of a recipe, whose batches fit the data and the devices.

        Raises:
            DataError, OptionError: they do not; ``where`` names the arm.
        """
        key = recipe_text(recipe)
        try:
            if key not in self._made:
                self._made[key] = self._task(recipe)
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
        key = _read_of(recipe)
        if key not in self._records:
            self._records[key] = self._record(recipe)
        return self._records[key]

    def _record(self, recipe: Recipe) -> DataRecord:
        if self._images is not None:
            return self._images.record()
        corpus = self._corpus(cast(LanguageRecipe, recipe))
        train, val = (
            SplitRecord(num_samples=len(split), digest=split.digest)
            for split in (corpus.train, corpus.val)
        )
        return DataRecord(train, val)

    def _task(self, recipe: Recipe) -> Task:
        if self._images is not None:
            skip = self._document.study.data.skip_corrupt
            return self._images.task(recipe, skip_corrupt=skip)
        from scalenet_cli.tasks.causal_lm.training_task import LanguageTask

        texts, place = cast(LanguageRecipe, recipe), data_options(self._document).data
        return LanguageTask(texts, self._corpus(texts), place=place)

    def _corpus(self, recipe: LanguageRecipe) -> "Corpus":
        """How many sequences the records are is only known once they are tokens."""
        from scalenet_cli.tasks.causal_lm.data.corpus import open_corpus
        from scalenet_cli.tasks.causal_lm.load_model import tokenizer_folder

        key = _read_of(recipe)
        if key not in self._corpora:
            data, base = data_options(self._document), cast(Any, self._source.base)
            words = tokenizer_folder(self._source.reference, data.tokenizer)
            self._corpora[key] = open_corpus(words, base.config, recipe, data)
        return self._corpora[key]


def _read_of(recipe: Recipe) -> tuple[object, ...]:
    """The entries of a recipe that decide what is read; of text, those that open_corpus uses."""
    if not isinstance(recipe, LanguageRecipe):
        return ()
    return recipe.max_length, recipe.template, recipe.train_on_prompt, recipe.val_share
