"""Whether images and labels fit a model: channels, size, and which class has which output."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from torch import nn

from scalenet_cli.errors import ClassesDiffer, DataNotFound, OptionError
from scalenet_cli.models.target import Target
from scalenet_cli.reports.base import HeadClasses
from scalenet_cli.tasks.image_classification.data.class_names import KnownClasses, match_classes
from scalenet_cli.tasks.image_classification.data.preprocessing import resolve_preprocessing
from scalenet_cli.tasks.image_classification.data.splits import Split, open_split
from scalenet_cli.tasks.image_classification.known_classes import known_classes
from scalenet_cli.training.data import DataOptions

MAX_CLASSES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a bundle's model takes and gives. ``config`` is timm's: how images are prepared."""

    num_classes: int
    config: Mapping[str, Any]
    known: KnownClasses

    @property
    def channels(self) -> int:
        """Of an image."""
        return int(self.config["input_size"][0])


def image_facts(target: Target, model: nn.Module) -> ImageFacts:
    """Facts of an image classifier, whose model needs no weights."""
    num_classes = int(vars(model)["num_classes"])
    config = resolve_preprocessing(target.family.image_preparation(model))
    return ImageFacts(num_classes, config, known_classes(target, num_classes))


@dataclass(frozen=True, slots=True)
class Head:
    """The head that data need: the model's, or a new one. ``note`` is for the user to hear."""

    num_classes: int
    is_new: bool
    classes: HeadClasses
    note: str | None = None


def image_channels(config: Mapping[str, Any]) -> int:
    """Channels that a model with this data config takes.

    Raises:
        OptionError: no image has so many.
    """
    channels = int(config["input_size"][0])
    if channels not in (1, 3, 4):
        raise OptionError(f"the model takes {channels} channels; images have 1, 3 or 4")
    return channels


def check_classes(
    split: Split, outputs: int, known: KnownClasses, *, mapped: bool
) -> tuple[HeadClasses, str | None]:
    """The data's classes are the model's, by name where both have names, else by number.

    Returns how that is known, and where names do not tell it a note for the user.

    Raises:
        ClassesDiffer: they are not; with a class map, one is no class of the model.
    """
    found = split.classes
    hint = "a --class-map gives each class name its target; or finetune the model on these classes"
    count = len(found) if not mapped else 0
    highest = max(split.targets() or [-1])
    if highest >= outputs or (count and count != outputs):
        raise ClassesDiffer(
            f"the data have {max(count, highest + 1)} classes, but the model has {outputs}",
            where=split.place,
            hint=hint,
        )
    match = match_classes(known, found, mapped=mapped)
    match match.case:
        case "assumed":
            return "assumed", f"{match.text}; if they are others, the accuracy says nothing"
        case "same" | "mapped" as case:
            return case, None
    raise ClassesDiffer(match.text, where=split.place, hint=hint)


def open_splits(data: DataOptions, channels: int) -> tuple[Split, Split]:
    """Training and validation data with the same classes.

    Raises:
        DataError: one is missing or empty, they differ in classes, or they are one and the same.
    """
    for option, split in (("--train-split", data.train_split), ("--val-split", data.val_split)):
        if not split.strip("./ "):
            raise OptionError(f"{option} {split} names no split", hint="for example train")
    train = open_split(data, data.train_split, limit=data.limit_train, channels=channels)
    val = open_split(
        data,
        data.val_split,
        limit=data.limit_val,
        channels=channels,
        classes=None if data.class_map else train.classes,
    )
    if train.place == val.place:
        raise DataNotFound(
            f"training and validation would use the same samples: there are no folders "
            f"{data.train_split} and {data.val_split}",
            where=train.place,
            hint="name the folders with --train-split and --val-split",
        )
    return train, val


def fit_classes(
    facts: ImageFacts, train: Split, *, wanted: int | None, mapped: bool, reset: bool
) -> Head:
    """The head that the data need: a new one where they have other classes than the model's.

    ``wanted`` is the number of outputs that the user says; ``mapped`` data name outputs of the
    model that there is.

    Raises:
        OptionError: there are more classes than that, or than any head has.
        ClassesDiffer: some classes are others, or have other outputs than in the model.
    """
    needed = _needed_classes(facts, train, wanted, mapped=mapped)
    new = f"the head is new: {needed} classes, and it is trained too"
    if reset or needed != facts.num_classes:
        return Head(needed, True, "new", new)
    match = match_classes(facts.known, train.classes, mapped=mapped)
    match match.case:
        case "moved" | "mixed":
            raise ClassesDiffer(
                match.text,
                where=train.place,
                hint="add --reset-head to train a new head for the data's classes, or give a "
                "--class-map: its line N names the class of output N, counted from 0",
            )
        case "other":
            return Head(needed, True, "new", f"{new}, because {match.text}")
        case "assumed":
            note = f"the head is kept: {match.text}; if they are others, add --reset-head"
            return Head(needed, False, "assumed", note)
        case "same" | "mapped" as case:
            return Head(needed, False, case)


def _needed_classes(facts: ImageFacts, train: Split, wanted: int | None, *, mapped: bool) -> int:
    found = _count(train)
    needed = wanted or found or facts.num_classes
    if needed > MAX_CLASSES:
        raise OptionError(f"{needed:,} classes are more than {MAX_CLASSES:,}")
    if found and needed < found:
        raise OptionError(
            f"--num-classes {needed} is too few: the data have {found} classes", where=train.place
        )
    return max(needed, facts.num_classes) if mapped and wanted is None else needed


def _count(train: Split) -> int | None:
    """As many classes as the data show without an image being read; None where they do not."""
    if train.classes:
        return max(train.classes.values()) + 1
    targets = train.targets()
    return max(targets) + 1 if targets else None
