"""Labelled images for the arms of a study: opened once, whatever the arms' recipes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from scalenet_cli.tasks.image_classification.data.fingerprint import split_record
from scalenet_cli.tasks.image_classification.data.splits import Split
from scalenet_cli.tasks.image_classification.head import (
    Head,
    fit_classes,
    image_facts,
    open_splits,
)
from scalenet_cli.tasks.image_classification.training_task import ImageTask
from scalenet_cli.tasks.requests import DataRequest
from scalenet_cli.training.run_record import SplitRecord


@dataclass(frozen=True, kw_only=True)
class StudyImages:
    """Both splits, and the head that they need; ``config`` is timm's data config."""

    train: Split
    val: Split
    config: dict[str, Any]
    head: Head
    skip_corrupt: bool

    @property
    def new_head(self) -> bool:
        """See OpenedData."""
        return self.head.is_new

    @property
    def notes(self) -> tuple[str, ...]:
        """What is done about the head."""
        return () if self.head.note is None else (self.head.note,)

    def training_task(self, recipe: Any) -> ImageTask:
        """See OpenedData."""
        return ImageTask(
            recipe,
            self.train,
            self.val,
            config=self.config,
            num_classes=self.head.num_classes,
            skip_corrupt=self.skip_corrupt,
        )

    def records(self, recipe: Any) -> tuple[SplitRecord, SplitRecord]:
        """The samples, of which none is read."""
        return self._records

    @cached_property
    def _records(self) -> tuple[SplitRecord, SplitRecord]:
        return split_record(self.train), split_record(self.val)


def open_images(request: DataRequest) -> StudyImages:
    """The images, and whether the model's head fits them; otherwise the model gets a new one.

    Raises:
        DataError, OptionError: they cannot be used.
    """
    data = request.data
    facts = image_facts(request.target, request.model)
    train, val = open_splits(data, facts.channels)
    head = fit_classes(
        facts,
        train,
        wanted=request.num_classes,
        mapped=data.class_map is not None,
        reset=request.reset_head,
    )
    if head.is_new:
        request.target.family.replace_head(request.model, head.num_classes)
    return StudyImages(
        train=train,
        val=val,
        config=dict(facts.config),
        head=head,
        skip_corrupt=data.skip_corrupt,
    )
