"""Single files of results: whole or not at all, and never over another one unasked."""

import csv
import json
import os
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalenet_cli.errors import (
    MissingExtra,
    OptionError,
    OutputExists,
    OutputUnwritable,
    install_hint,
)
from scalenet_cli.files.staged_file import staged_file

if TYPE_CHECKING:
    import torch

PARQUET: Final = ".parquet"
Row = tuple[object, ...]


def check_result_file(
    path: Path, option: str, suffixes: Sequence[str], *, force: bool, inputs: Iterable[Path]
) -> None:
    """The file may be written, and its suffix names a known format; see require_no_part of inputs.

    Raises:
        OptionError, MissingExtra: an unknown suffix, or Parquet without pyarrow.
        OutputExists: it is there, or is a folder, or part of anything else.
        OutputUnwritable: its folder is missing or may not be written to.
    """
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"{option} {path} has to end in {' or '.join(suffixes)}")
    if path.suffix.lower() == PARQUET and find_spec("pyarrow") is None:
        raise MissingExtra(
            f"{option} {path} needs the package pyarrow",
            hint=f"{install_hint('parquet')}; or write a .csv",
        )
    from scalenet_cli.tasks.protected_files import require_no_part

    require_no_part(path, option, inputs)
    if path.is_dir() or (os.path.lexists(path) and not force):
        raise OutputExists(
            "the output is a folder" if path.is_dir() else "the output exists already",
            where=str(path),
            hint=f"choose another {option}" + ("" if path.is_dir() else ", or add --force"),
        )
    parent = path.absolute().parent
    if not parent.is_dir():
        raise OutputUnwritable(
            f"{parent} is no folder", where=str(path), hint="make that folder first"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputUnwritable(f"no permission to write in {parent}", where=str(path))


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A CSV file with a line of names. Bytes of file names that are no text are escaped."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_parquet(path: Path, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """A Parquet file with typed columns."""
    import pyarrow
    from pyarrow import parquet

    values = [[_plain(value) for value in column] for column in zip(*rows, strict=True)]
    parquet.write_table(pyarrow.table(dict(zip(columns, values, strict=True))), path)


def _plain(value: object) -> object:
    return value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value


def write_confusion(path: Path, matrix: "torch.Tensor", labels: Sequence[str]) -> None:
    """Images by target (row) and prediction (column), as CSV or JSON."""
    rows = matrix.tolist()
    with staged_file(path) as staging:
        if path.suffix.lower() == ".csv":
            columns = ("target", *labels)
            write_csv(staging, columns, [(labels[at], *row) for at, row in enumerate(rows)])
            return
        content = {"rows": "target", "columns": "prediction", "classes": labels, "matrix": rows}
        staging.write_text(json.dumps(content) + "\n", encoding="utf-8")
