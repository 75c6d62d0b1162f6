"""Records through the library `datasets`: from the hub, and from folders that it wrote."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final, final, overload

from scalenet_cli.errors import (
    DataNotFound,
    DataUnreadable,
    DownloadFailed,
    MissingExtra,
    install_hint,
)
from scalenet_cli.tasks.causal_lm.data.record import Record, row_record
from scalenet_cli.training.data import TRAIN_NAMES, VAL_NAMES

# How a reference to the hub begins.
HUB: Final = "hf:"
# What `save_to_disk` leaves in a folder: of several splits, and of a data set that is none.
SEVERAL: Final = "dataset_dict.json"
ALONE: Final = ("dataset_info.json", "state.json")
SAVED: Final = (SEVERAL, ALONE[0])


def read_from_hub(reference: str, split: str) -> Sequence[Record]:
    """One split of ``hf:OWNER/NAME``, ``/CONFIG`` and ``@REVISION`` where they are given.

    Raises:
        DataNotFound: the reference has another form, or there is no such split.
        DownloadFailed: offline, no such data set, or no access.
    """
    library = _library(reference)
    name, _, revision = reference.removeprefix(HUB).partition("@")
    owner, slash, rest = name.partition("/")
    title, _, config = rest.partition("/")
    if not (owner and slash and title):
        raise DataNotFound("no name of a data set", where=reference, hint="hf:OWNER/NAME")

    ask = partial(library.load_dataset_builder, f"{owner}/{title}", config or None)
    ask = partial(ask, revision=revision or None)

    def load() -> Any:
        return _load_split(library, ask, split, reference)

    return _records(_attempt(load, reference, download=True), split, reference)


def read_from_folder(folder: Path, split: str) -> Sequence[Record]:
    """One split of a folder that `datasets` saved or understands.

    Raises:
        DataNotFound: there is no such split.
        DataUnreadable: the library cannot read the folder.
    """
    library, place = _library(str(folder)), str(folder)
    saved = any((folder / name).is_file() for name in SAVED)
    load = library.load_from_disk if saved else library.load_dataset
    return _records(_attempt(lambda: load(place), place, download=False), split, place)


def _library(place: str) -> ModuleType:
    try:
        import datasets
    except ModuleNotFoundError:
        raise MissingExtra(
            "this kind of data needs the package datasets",
            where=place,
            hint=f"{install_hint('data')}; or write the records to a .jsonl",
        ) from None
    datasets.disable_progress_bars()
    library: ModuleType = datasets
    return library


def _attempt(load: Callable[[], Any], place: str, *, download: bool) -> Any:
    import pyarrow
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # RuntimeError is what it raises of a data set that is a script.
    reached = (OSError, HfHubHTTPError, HFValidationError)
    try:
        return load()
    except (
        *reached, DatasetsError, pyarrow.ArrowException, ValueError, TypeError, LookupError,
        AttributeError, RuntimeError,
    ) as error:  # fmt: skip
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if download and isinstance(error, reached):
            raise DownloadFailed(
                f"{place} could not be fetched: {first}",
                hint="check the name and the network; a local file or folder works offline",
            ) from None
        raise DataUnreadable(f"datasets cannot read it: {first}", where=place) from None


def _load_split(
    library: ModuleType, ask: Callable[..., Any], split: str, place: str
) -> Mapping[str, Any]:
    """A mapping that has the split; only its files are downloaded, unless the cache has them all.

    ``load_dataset(split=)`` would download and build all splits before it returns one. A split that
    is built alone has a cache of its own, so that nobody takes it for the whole data set.
    """
    try:
        builder = ask()
    except (OSError, ValueError):  # offline, where the cache has not the whole data set
        kept = _kept_splits(library, ask, split)
        if not kept:
            raise
        return kept
    files = builder.config.data_files
    built = (Path(builder.cache_dir) / ALONE[0]).is_file()
    if not files or len(files) == 1 or built:
        builder.download_and_prepare()
        return _mapping(builder)
    name = _name_of(split, files, place)
    builder = ask(cache_dir=str(_cache_of(library, name)))
    builder.config.data_files = type(files)({name: files[name]})
    # What the data set says of itself is of all splits.
    builder.info.size_in_bytes = None
    builder.download_and_prepare(verification_mode="no_checks")
    return _mapping(builder)


def _kept_splits(library: ModuleType, ask: Callable[..., Any], split: str) -> Mapping[str, Any]:
    for name in _names(split):
        cache = _cache_of(library, name)
        if cache.is_dir():
            try:
                return _mapping(ask(cache_dir=str(cache)))
            except (OSError, ValueError):  # it has other data sets
                continue
    return {}


def _mapping(builder: Any) -> Mapping[str, Any]:
    found: Mapping[str, Any] = builder.as_dataset()
    return found


def _cache_of(library: ModuleType, name: str) -> Path:
    return Path(library.config.HF_DATASETS_CACHE).expanduser() / "scalenet-splits" / name


def _names(split: str) -> tuple[str, ...]:
    """A split's names, the one that was asked for first."""
    known = next((names for names in (TRAIN_NAMES, VAL_NAMES) if split in names), ())
    return (split, *known)


def _name_of(split: str, present: Collection[Any], place: str) -> str:
    name = next((name for name in _names(split) if name in present), None)
    if name is None:
        raise DataNotFound(
            f"the data have no split {split}, but {', '.join(map(str, present))}", where=place
        )
    return name


def _records(loaded: Any, split: str, place: str) -> Sequence[Record]:
    """The rows of a split; a data set that was saved alone has no splits, and is its own."""
    from datasets import DatasetDict

    if isinstance(loaded, DatasetDict):
        name = _name_of(split, loaded, place)
        loaded, place = loaded[name], f"{place} {name}"
    return _Rows(loaded, place)


@final
class _Rows(Sequence[Record]):
    """The rows of a table on disk, each made into a record when it is asked for."""

    def __init__(self, table: Any, place: str) -> None:
        self._table, self._place = table, place

    def __len__(self) -> int:
        return len(self._table)

    @overload
    def __getitem__(self, at: int) -> Record: ...

    @overload
    def __getitem__(self, at: slice) -> list[Record]: ...

    def __getitem__(self, at: int | slice) -> Record | list[Record]:
        positions = range(len(self))[at]
        if isinstance(positions, range):
            return [self[position] for position in positions]
        return row_record(self._table[positions], f"{self._place}[{positions}]")

    def __iter__(self) -> Iterator[Record]:
        # Not one by one through __getitem__: the library reads a thousand rows at a time.
        for at, row in enumerate(self._table):
            yield row_record(row, f"{self._place}[{at}]")
