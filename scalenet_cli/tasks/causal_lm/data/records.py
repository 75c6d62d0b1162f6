"""Records of text with a place for messages: JSON lines, JSON, text, Parquet, Hugging Face data."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import DataNotFound, DataUnreadable, MissingExtra, install_hint
from scalenet_cli.families.sources.json_text import parse_json
from scalenet_cli.tasks.causal_lm.data.datasets_library import (
    ALONE,
    HUB,
    SAVED,
    SEVERAL,
    read_from_folder,
    read_from_hub,
)
from scalenet_cli.tasks.causal_lm.data.record import Record, row_record, value_kind
from scalenet_cli.training.data import TRAIN_NAMES, VAL_NAMES

LINES: Final = (".jsonl", ".ndjson")
SUFFIXES: Final = (*LINES, ".json", ".txt", ".parquet")
# One record is text that a person may read; a whole file fits into memory.
MAX_LINE_BYTES: Final = 2**26
MAX_FILE_BYTES: Final = 2**31
_MARK: Final = b"\xef\xbb\xbf"
# An object with one of these is a record; one without may be a list of records with a frame.
_FIELDS: Final = (
    "text", "messages", "conversations", "instruction", "prompt", "query", "choices",
)  # fmt: skip


def read_records(data: str, split: str = "train") -> Sequence[Record]:
    """All records of a file, of one split of a folder, or of a Hugging Face data set.

    A file is ``.jsonl`` (an object per line, blank lines left out), ``.json`` (a list of objects,
    or an object per line), ``.txt`` (one record, ``text``) or ``.parquet``; a file has no splits.
    A folder has one such file per split, or is what ``datasets`` saved or understands.
    ``hf:OWNER/NAME``, with ``/CONFIG`` and ``@REVISION`` where they are needed, is the only
    reference that reaches the network.

    Raises:
        DataNotFound: no such file, folder, split or data set.
        DataUnreadable: not of the format that its name claims, or without a record.
        MissingExtra: the package that reads this kind is not there.
    """
    if data.startswith(HUB):
        records: Sequence[Record] = read_from_hub(data, split)
    else:
        path = _existing(data)
        records = _folder(path, split) if path.is_dir() else list(_file(path))
    if not records:
        raise DataUnreadable("there is no record in it", where=data)
    return records


def is_text_data(data: str) -> bool:
    """Whether this may be records, by its name and the names in it; nothing is read."""
    if data.startswith(HUB):
        return True
    path = Path(data)
    if not path.is_dir():
        return path.suffix.lower() in SUFFIXES
    return any(
        found.suffix.lower() in SUFFIXES or found.name in SAVED
        for folder in (path, *(part for part in path.iterdir() if part.is_dir()))
        for found in folder.iterdir()
    )


def has_splits(data: str) -> bool:
    """Whether there are splits to choose from: not in a file, nor in a data set saved alone.

    Raises:
        DataNotFound: no such file or folder.
    """
    if data.startswith(HUB):
        return True
    path = _existing(data)
    return path.is_dir() and not _is_alone(path)


def _existing(data: str) -> Path:
    path = Path(data)
    try:
        there = path.exists()
    except (OSError, ValueError):  # too long a name, or a null byte in it
        there = False
    if not there:
        raise DataNotFound(
            "there is no such data",
            where=data,
            hint=f"a file ({', '.join(SUFFIXES)}), a folder of such files, or hf:OWNER/NAME",
        )
    return path


def _is_alone(folder: Path) -> bool:
    """Whether `datasets` saved a data set here that is no split of several."""
    names = {path.name for path in folder.iterdir()}
    # A file of a split goes before what `datasets` saved, as when it is read.
    files = [name for name in names - {*ALONE} if Path(name).suffix.lower() in SUFFIXES]
    return ALONE[0] in names and SEVERAL not in names and not files


def _folder(folder: Path, split: str) -> Sequence[Record]:
    """The file of a split below a folder, or what the library `datasets` finds there."""
    known = next((names for names in (TRAIN_NAMES, VAL_NAMES) if split in names), ())
    for name in (split, *known):
        for suffix in SUFFIXES:
            if (folder / f"{name}{suffix}").is_file():
                return list(_file(folder / f"{name}{suffix}"))
    saved = any((folder / name).exists() for name in SAVED)
    present = sorted({path.stem for path in folder.iterdir() if path.suffix.lower() in SUFFIXES})
    others = [name for name in present if name in (*TRAIN_NAMES, *VAL_NAMES)]
    if (others and not saved) or not is_text_data(str(folder)):
        raise DataNotFound(
            f"the folder has no {split}.jsonl" + (f", but {', '.join(others)}" if others else ""),
            where=str(folder),
            hint=f"name a file of records, or put SPLIT{{{','.join(SUFFIXES)}}} into the folder",
        )
    return read_from_folder(folder, split)


def _file(path: Path) -> Iterator[Record]:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataUnreadable(
            f"records are not read from {path.suffix or 'a file without a suffix'}",
            where=str(path),
            hint=f"known are {', '.join(SUFFIXES)}",
        )
    if not path.is_file():
        raise DataUnreadable("this is no regular file", where=str(path))
    try:
        if suffix in LINES:
            yield from _lines(path)
        elif suffix == ".parquet":
            yield from _parquet(path)
        elif suffix == ".txt":
            yield Record({"text": _decode(_whole(path), str(path))}, str(path))
        else:
            yield from _json(path)
    except OSError as error:
        raise DataUnreadable(
            f"the file cannot be read: {error.strerror or error}", where=str(path)
        ) from None


def _whole(path: Path) -> bytes:
    if path.stat().st_size > MAX_FILE_BYTES:
        raise DataUnreadable(
            f"the file is larger than {MAX_FILE_BYTES} bytes",
            where=str(path),
            hint="write it as .jsonl, of which only a line has a limit",
        )
    return path.read_bytes().removeprefix(_MARK)


def _decode(data: bytes, place: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataUnreadable(f"no UTF-8 text: {error}", where=place) from None


def _lines(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
            place = f"{path}:{number}"
            if len(line) > MAX_LINE_BYTES:
                raise DataUnreadable(f"the line has more than {MAX_LINE_BYTES} bytes", where=place)
            text = line.removeprefix(_MARK) if number == 1 else line
            if text.strip():
                yield _record(_parse(text, place), place)


def _json(path: Path) -> Iterator[Record]:
    content = _whole(path)
    if not content.lstrip().startswith(b"["):
        yield from _objects(path, content)
        return
    items = _parse(content, str(path))
    assert isinstance(items, list)
    for at, item in enumerate(items):
        yield _record(item, f"{path}[{at}]")


def _objects(path: Path, content: bytes) -> Iterator[Record]:
    """An object per line, or a single one, which may have many lines."""
    try:
        alone = parse_json(content)
    except ValueError:
        yield from _lines(path)
        return
    if isinstance(alone, dict) and not any(name in alone for name in _FIELDS):
        framed = next((name for name, value in alone.items() if isinstance(value, list)), None)
        if framed is not None:
            raise DataUnreadable(
                f"the file is one object, with a list in its field {framed}",
                where=str(path),
                hint="a list of objects was expected, or an object per line: write that list alone",
            )
    yield _record(alone, f"{path}:1")


def _parse(data: bytes, place: str) -> Any:
    try:
        return parse_json(data)
    except ValueError as error:
        raise DataUnreadable(
            f"not readable as JSON: {error}", where=place, hint="one object per line, in UTF-8"
        ) from None


def _record(value: object, place: str) -> Record:
    if not isinstance(value, dict):
        raise DataUnreadable(
            f"a record is {value_kind(value)}",
            where=place,
            hint='an object was expected, such as {"text": "..."}',
        )
    return Record(value, place)


def _parquet(path: Path) -> Iterable[Record]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise MissingExtra(
            "Parquet files need the package pyarrow",
            where=str(path),
            hint=f"{install_hint('parquet')}; or write .jsonl",
        ) from None
    try:
        rows = parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, ValueError) as error:
        raise DataUnreadable(f"no Parquet file: {error}", where=str(path)) from None
    return [row_record(row, f"{path}[{at}]") for at, row in enumerate(rows)]
