"""From timm's name of a data set to an object with a sample per index."""

import contextlib
import logging
import sys
import tarfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from timm.data import create_dataset
from torchvision.datasets import VisionDataset

from scalenet_cli.errors import (
    ClassesDiffer,
    DataUnreadable,
    MissingExtra,
    OptionError,
    install_hint,
)
from scalenet_cli.tasks.image_classification.data.class_map import read_class_map
from scalenet_cli.tasks.image_classification.data.tars import TarImages, members_of, open_shards

# timm reads a prefix that it does not know as a folder; here each has to be known.
PREFIXES: Final = ("hfds", "torch", "wds")
# Streams without random access: their workers' shares overlap or leave samples out.
STREAMS: Final[Mapping[str, str]] = {
    "hfids": "the same data as hfds/NAME have random access",
    "tfds": "write them to a folder or tar of images, or find them as hfds/NAME",
}
# torchvision data sets that are folders on disk, with splits as timm's own folders have them.
FOLDERS: Final = ("torch/image_folder", "torch/folder")


def check_dataset(name: str) -> None:
    """The name of a data set is one that can be opened.

    Raises:
        OptionError: its prefix is not known.
        DataUnreadable: it is known, but cannot be read sample by sample.
    """
    prefix, slash, rest = name.partition("/")
    if prefix.lower() in STREAMS and slash:
        raise DataUnreadable(
            f"{prefix}/ data sets are streams, which cannot count every sample once",
            where=name,
            hint=STREAMS[prefix.lower()],
        )
    if name and (prefix.lower() not in PREFIXES or not slash or not rest):
        raise OptionError(
            f"--dataset {name} is no name of a data set",
            hint=f"it starts with {', '.join(f'{known}/' for known in PREFIXES)}; leave it out for "
            "folders and .tar files",
        )


def open_reader(dataset: str, root: str, split: str, class_map: str | None, place: str) -> Any:
    """A reader of timm's, one of tars, or a torchvision data set; nothing is downloaded but hfds.

    Raises:
        OptionError, MissingExtra: the name is not known, or needs a package that is not there.
        DataError: no images, an unknown split, a class map that does not fit.
    """
    check_dataset(dataset)
    prefix = dataset.partition("/")[0].lower()
    if class_map and prefix in ("torch", "wds"):
        raise OptionError(f"--class-map is for folders, tars and hfds/, not for {dataset}")
    if prefix == "wds":
        return open_shards(root, split, place)
    if prefix == "hfds" and find_spec("datasets") is None:
        raise MissingExtra(f"{dataset} needs the package datasets", hint=install_hint("data"))
    classes = read_class_map(class_map, root) if class_map else None
    is_tar = not dataset and root.endswith(".tar") and Path(root).is_file()
    with _explaining(dataset, place, split), _quiet():
        opened = create_dataset(
            dataset,
            root or None,
            split=split,
            search_split=False,
            class_map=classes,
            # timm keeps an index of large tars as a pickle beside them, and would load any.
            **({"cache_tarinfo": False} if is_tar else {}),
        )
    if isinstance(opened, VisionDataset):
        return opened
    if prefix == "hfds":
        _check_columns(opened.reader, classes, place)
    return members_of(opened.reader, root) if is_tar else opened.reader


def left_out(reader: Any, root: str) -> list[str]:
    """Folders below a root that a class map does not name: timm passes over their images."""
    if isinstance(reader, TarImages) or not Path(root).is_dir():
        return []
    folders = {path.name for path in Path(root).iterdir() if path.is_dir()}
    return sorted(folders - reader.class_to_idx.keys())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries that open data log and print; stdout is for the report."""
    log = logging.getLogger("timm.data")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(level)


@contextlib.contextmanager
def _explaining(dataset: str, place: str, split: str) -> Iterator[None]:
    """Whatever libraries raise when there is nothing to read.

    Raises:
        DataUnreadable: in its place.
    """
    failures: tuple[type[Exception], ...] = (
        OSError, RuntimeError, ValueError, AssertionError, LookupError, TypeError,
        tarfile.TarError,
    )  # fmt: skip
    if dataset.lower().startswith("hfds/"):
        import datasets

        if not sys.stderr.isatty():
            datasets.disable_progress_bars()
        failures = (*failures, datasets.exceptions.DatasetsError)
    try:
        yield
    except ImportError as error:
        raise DataUnreadable(
            f"{dataset} needs a package that is not installed: {error.name}",
            where=place,
            hint=f"pip install {error.name}",
        ) from None
    except failures as error:
        facts = " ".join(str(error).split()) or type(error).__name__
        if "not enough values to unpack" in facts:  # timm, of a tar without images
            facts = "it holds no images"
        raise DataUnreadable(f"no images can be read: {facts}", where=place) from None


def _check_columns(reader: Any, classes: Mapping[str, int] | None, place: str) -> None:
    """A Hugging Face data set has images, labels, and classes that a map names."""
    features = reader.dataset.features
    if reader.label_key not in features:
        raise DataUnreadable(
            f"the data have no column {reader.label_key}, but {', '.join(features)}", where=place
        )
    names = list(getattr(features[reader.label_key], "names", None) or ())
    lacking = [name for name in names if classes is not None and name not in classes]
    if lacking:
        raise ClassesDiffer(
            f"the class map lacks {len(lacking)} of {len(names)} classes, such as {lacking[0]}",
            where=place,
            hint="name every class of the data in the class map",
        )
