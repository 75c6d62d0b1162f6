"""A bundle's folder: what may be replaced, and by what it is recognized."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalenet_cli.bundle.manifest import MANIFEST
from scalenet_cli.errors import OutputExists, OutputUnwritable
from scalenet_cli.files.staged_folder import require_writable_parent, staged_folder


def check_output(output: Path, *, force: bool, foreign: bool = False) -> None:
    """The output may be written; with ``foreign``, even where other files lie in the old bundle.

    Raises:
        OutputExists: it is there; with ``force``, it is there and is no bundle.
        OutputUnwritable: its parent is no folder, or may not be written to.
    """
    try:
        exists = output.is_symlink() or output.exists()
    except OSError as error:
        raise OutputUnwritable(f"{error.strerror}", where=str(output)) from None
    if exists:
        _require_replaceable(output, force=force, foreign=foreign)
    require_writable_parent(output)


def _require_replaceable(output: Path, *, force: bool, foreign: bool) -> None:
    """What is there is a bundle that may be replaced, or an empty folder.

    Raises:
        OutputExists: it is not.
    """
    empty = output.is_dir() and not any(output.iterdir())
    if not force and not empty:
        raise OutputExists(
            "the output exists already",
            where=str(output),
            hint="choose another -o, or add --force to replace the bundle",
        )
    listed = {MANIFEST} if empty else _listed_files(output)
    if output.is_symlink() or listed is None:
        raise OutputExists(
            "the output exists and is no bundle, so --force does not remove it",
            where=str(output),
            hint="choose another -o, or remove it yourself",
        )
    others = foreign_files(output)
    if others and not foreign:
        raise OutputExists(
            f"the output holds {others[0].name}, which is no part of the bundle; --force would "
            "remove it",
            where=str(output),
            hint="move it away, or choose another -o",
        )


def foreign_files(output: Path) -> list[Path]:
    """What lies in a bundle's folder and is no part of the bundle."""
    listed = _listed_files(output) or {MANIFEST}
    return sorted(path for path in output.iterdir() if path.name not in listed)


def _listed_files(output: Path) -> set[str] | None:
    """What a bundle's manifest lists, itself included; None where the folder is none of ours."""
    try:
        content = json.loads((output / MANIFEST).read_bytes())
        if not content["tool"].startswith("scalenet-cli "):
            return None
        return {MANIFEST, *content["files"]}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def check_space(output: Path, num_bytes: int) -> None:
    """There is room for so many bytes.

    Raises:
        OutputUnwritable: there is not.
    """
    free = shutil.disk_usage(_parent(output)).free
    if free < num_bytes:
        raise OutputUnwritable(
            f"the bundle needs {num_bytes:,} bytes, but {free:,} are free",
            where=str(output),
            hint="make room, or choose an output on another disk",
        )


@contextmanager
def staged_bundle(output: Path, *, force: bool, foreign: bool = False) -> Iterator[Path]:
    """A sibling folder to write into; it takes the output's name when the block ends well.

    Raises:
        OutputExists, OutputUnwritable: see check_output; also a full disk.
    """
    with staged_folder(
        output, lambda: check_output(output, force=force, foreign=foreign)
    ) as folder:
        yield folder


def _parent(output: Path) -> Path:
    return output.absolute().parent
