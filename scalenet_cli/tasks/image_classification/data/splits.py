"""Opens the splits of a data set with timm: folders, tars, Hugging Face and torchvision data."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from PIL import Image
from timm.data.readers.reader_image_folder import ReaderImageFolder
from torchvision.datasets import DatasetFolder, ImageFolder, VisionDataset

from scalenet_cli.errors import ClassesDiffer, DataNotFound, DataUnreadable
from scalenet_cli.tasks.image_classification.data.readers import (
    FOLDERS,
    check_dataset,
    left_out,
    open_reader,
)
from scalenet_cli.training.data import TRAIN_NAMES, VAL_NAMES, DataOptions, evenly_spaced

# Resizing makes the shorter side as long as the model's, and the longer one in proportion.
MAX_ASPECT: Final = 1000
# What decoding a damaged image raises: Pillow's plugins are not of one mind.
IMAGE_ERRORS: Final = (
    OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError,
    MemoryError, Image.DecompressionBombError,
)  # fmt: skip


@final
@dataclass(frozen=True)
class Split:
    """Samples with random access. ``classes`` maps names to targets, where the data have names.

    ``left_out`` are class folders that a class map does not name.
    """

    source: Any  # a reader of timm's, TarImages, or a torchvision data set
    indices: tuple[int, ...] | range
    classes: Mapping[str, int]
    place: str
    image_mode: str
    left_out: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The decoded image and its target.

        Raises:
            one of IMAGE_ERRORS: the image is damaged, or larger than Pillow allows.
        """
        item, target = self.source[self.indices[index]][:2]
        if isinstance(item, Image.Image):
            return item.convert(self.image_mode), int(target)
        with item, Image.open(item) as image:
            if max(image.size) > MAX_ASPECT * min(image.size):
                raise ValueError(f"{image.width} x {image.height} pixels are too narrow to resize")
            return image.convert(self.image_mode), int(target)

    def name(self, index: int) -> str:
        """What to call a sample in a message: its path where it has one."""
        at = self.indices[index]
        found: object = None
        if isinstance(self.source, ImageFolder):
            found = Path(self.source.samples[at][0]).relative_to(self.source.root)
        elif not isinstance(self.source, VisionDataset):
            # A row of a Hugging Face data set may have no image, or one without a path.
            with contextlib.suppress(TypeError, LookupError):
                found = self.source.filename(at)
        return str(found) if found else f"{self.place}[{at}]"

    @property
    def has_files(self) -> bool:
        """Whether every sample is a file of its own."""
        return isinstance(self.source, ReaderImageFolder | DatasetFolder)

    def file(self, index: int) -> str:
        """The file of a sample, where samples have their own."""
        return str(self.source.samples[self.indices[index]][0])

    def targets(self) -> list[int] | None:
        """All targets without reading an image, where the reader can."""
        samples = getattr(self.source, "samples", None)
        if not isinstance(samples, list):
            return None
        return [int(samples[at][1]) for at in self.indices]


def open_split(
    options: DataOptions,
    split: str,
    *,
    limit: int | None = None,
    channels: int = 3,
    classes: Mapping[str, int] | None = None,
) -> Split:
    """One split of the data. ``classes``, from another split, fixes which class has which target.

    Raises:
        DataNotFound: no such folder, split or data set.
        DataUnreadable: no images in it, or a library that is missing.
        ClassesDiffer: it has other classes than the other split.
    """
    check_dataset(options.dataset)
    root, place = _root(options, split)
    source = open_reader(
        options.dataset, root, split=split, class_map=options.class_map, place=place
    )
    size = len(source)
    if size == 0:
        raise DataUnreadable(f"the split {split} has no samples", where=place)
    found = _classes(source)
    if classes and found and dict(classes) != found:
        raise _classes_differ(classes, found, place)
    indices: range | tuple[int, ...] = range(size)
    if limit is not None and limit < size:
        indices = evenly_spaced(size, limit)
    mode = {1: "L", 4: "RGBA"}.get(channels, "RGB")
    missed = left_out(source, root) if options.class_map and not options.dataset else []
    return Split(
        source=source,
        indices=indices,
        classes=found,
        place=place,
        image_mode=mode,
        left_out=tuple(missed),
    )


def _root(options: DataOptions, split: str) -> tuple[str, str]:
    """The folder or file that holds a split, and how messages call it.

    A data set with splits in folders is never read as one whose classes are called train and val.
    """
    if options.dataset and options.dataset.lower() not in FOLDERS:
        return options.data, f"{options.dataset} {split}"
    root = Path(options.data)
    if not root.exists():
        raise DataNotFound(
            "there is no such data", where=options.data, hint="--data takes a folder or a .tar"
        )
    if not root.is_dir():
        return str(root), str(root)
    names = next((names for names in (TRAIN_NAMES, VAL_NAMES) if split in names), (split,))
    for name in (split, *names):
        for candidate in (root / name, root / f"{name}.tar"):
            if candidate.exists():
                return str(candidate), str(candidate)
    others = [name for name in (*TRAIN_NAMES, *VAL_NAMES) if (root / name).exists()]
    if others or split not in (*TRAIN_NAMES, *VAL_NAMES):
        raise DataNotFound(
            f"the data have no split {split}" + (f", but {', '.join(others)}" if others else ""),
            where=options.data,
            hint="name the split's folder or tar below it: eval with --split, finetune with "
            "--train-split and --val-split",
        )
    return str(root), str(root)


def _classes(source: Any) -> dict[str, int]:
    named = source.class_to_idx if "class_to_idx" in vars(source) else {}
    if not named and isinstance(source, VisionDataset) and "classes" in dir(source):
        named = {str(name): order for order, name in enumerate(source.classes)}
    return {str(name): int(target) for name, target in dict(named).items()}


def _classes_differ(
    expected: Mapping[str, int], found: Mapping[str, int], place: str
) -> ClassesDiffer:
    lacking = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    facts = [f"{len(expected)} classes in training, but {len(found)} here"]
    if lacking:
        facts.append(f"without {', '.join(lacking[:3])}{' ...' if len(lacking) > 3 else ''}")
    if extra:
        facts.append(f"with {', '.join(extra[:3])}{' ...' if len(extra) > 3 else ''}")
    return ClassesDiffer(
        "; ".join(facts),
        where=place,
        hint="both splits need the same class folders, or one --class-map",
    )
