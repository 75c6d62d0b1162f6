"""Whether images and labels fit a model: channels, size, and which class has which output."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scalenet_cli.bundle.read import read_manifest
from scalenet_cli.commands.opening import describe
from scalenet_cli.commands.options import SourceOptions
from scalenet_cli.errors import ClassesDiffer, DataNotFound, OptionError
from scalenet_cli.training.data import DataOptions
from scalenet_cli.vision.preprocessing import resolve_preprocessing
from scalenet_cli.vision.splits import Split, open_split

MAX_CLASSES: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a bundle's model takes and gives.

    ``config`` is timm's data config: how images are prepared. ``classes`` is known of trained
    bundles.
    """

    num_classes: int
    config: Mapping[str, Any]
    classes: Mapping[str, int]

    @property
    def channels(self) -> int:
        """Of an image."""
        return int(self.config["input_size"][0])


def image_facts(bundle: str) -> ImageFacts:
    """Facts of an image classifier, without its weights."""
    manifest = read_manifest(Path(bundle))
    described = describe(bundle, SourceOptions())
    trained = manifest.trained
    return ImageFacts(
        int(vars(described.model)["num_classes"]),
        resolve_preprocessing(described.model),
        trained.classes if trained else {},
    )


def image_channels(config: Mapping[str, Any]) -> int:
    """Channels that a model with this data config takes.

    Raises:
        OptionError: no image has so many.
    """
    channels = int(config["input_size"][0])
    if channels not in (1, 3, 4):
        raise OptionError(f"the model takes {channels} channels; images have 1, 3 or 4")
    return channels


def check_classes(split: Split, outputs: int, known: Mapping[str, int], *, mapped: bool) -> None:
    """The data's classes are the model's, by name where both have names, else by number.

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
    for name, target in found.items() if known else ():
        if known.get(name) != target and not (mapped and name not in known):
            raise ClassesDiffer(
                f"the class {name} is {target} in the data, but "
                + (f"{known[name]} in the model" if name in known else "no class of the model"),
                where=split.place,
                hint=hint,
            )


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
) -> tuple[int, bool]:
    """The number of outputs that the data need, and whether the head has to be a new one.

    ``wanted`` is what the user says; ``mapped`` data name outputs of the model that there is.

    Raises:
        OptionError: there are more classes than that, or than any head has.
        ClassesDiffer: as many classes, but others than those that the model was trained on.
    """
    found = _count(train)
    needed = wanted or found or facts.num_classes
    if needed > MAX_CLASSES:
        raise OptionError(f"{needed:,} classes are more than {MAX_CLASSES:,}")
    if found and needed < found:
        raise OptionError(
            f"--num-classes {needed} is too few: the data have {found} classes", where=train.place
        )
    if mapped and wanted is None:
        needed = max(needed, facts.num_classes)
    if reset or needed != facts.num_classes:
        return needed, True
    _require_same_names(facts, train, mapped=mapped)
    return needed, False


def _require_same_names(facts: ImageFacts, train: Split, *, mapped: bool) -> None:
    """No class has another output than the one that it was trained on.

    Raises:
        ClassesDiffer: one has; or, without a class map, the data have other classes.
    """
    if not facts.classes or not train.classes:
        return
    for name in sorted(facts.classes.keys() & train.classes.keys()):
        if facts.classes[name] != train.classes[name]:
            raise ClassesDiffer(
                f"the model was trained with {name} as class {facts.classes[name]}, but the data "
                f"have it as {train.classes[name]}",
                where=train.place,
                hint="correct the --class-map, or add --reset-head to train a new head",
            )
    if not mapped and facts.classes.keys() != train.classes.keys():
        raise ClassesDiffer(
            f"the model was trained on {len(facts.classes)} other classes, such as "
            f"{next(iter(facts.classes))}; the data have {next(iter(train.classes))}",
            where=train.place,
            hint="add --reset-head to train a new head for these classes",
        )


def _count(train: Split) -> int | None:
    """As many classes as the data show without an image being read; None where they do not."""
    if train.classes:
        return max(train.classes.values()) + 1
    targets = train.targets()
    return max(targets) + 1 if targets else None
