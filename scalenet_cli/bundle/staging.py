"""A folder that appears whole or not at all."""

import ctypes
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scalenet_cli.bundle.manifest import MANIFEST
from scalenet_cli.errors import OutputExists, OutputUnwritable
from scalenet_cli.files.stop_requests import stop_requests


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
    parent = _parent(output)
    if not parent.is_dir():
        raise OutputUnwritable(
            f"{parent} is no folder", where=str(output), hint="make that folder first"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputUnwritable(f"no permission to write in {parent}", where=str(output))


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
def staged_folder(output: Path, *, force: bool, foreign: bool = False) -> Iterator[Path]:
    """A sibling folder to write into; it takes the output's name when the block ends well.

    On any failure, Ctrl-C included, it is removed and the old state stays. A request to stop that
    arrives while the folders are exchanged comes too late: the output is there.

    Raises:
        OutputExists, OutputUnwritable: see check_output; also a full disk.
    """
    check_output(output, force=force, foreign=foreign)
    parent = _parent(output)
    # Named before it is made: a signal may arrive right after that.
    staging = parent / f".{output.name}.{secrets.token_hex(8)}.partial"
    try:
        with stop_requests() as requests:
            staging.mkdir(mode=0o700)
            yield staging
            check_output(
                output, force=force, foreign=foreign
            )  # once more: it may have appeared meanwhile
            requests.hold()
            _publish(staging, output, parent)
    except OSError as error:
        raise OutputUnwritable(
            f"writing failed: {error.strerror or error}",
            where=str(output),
            hint="nothing was left behind; make room or fix permissions, then run it again",
        ) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def fsync_path(path: Path) -> None:
    """Makes a file's content, or a folder's list of names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parent(output: Path) -> Path:
    return output.absolute().parent


def _publish(staging: Path, output: Path, parent: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    staging.chmod(0o777 & ~umask)
    fsync_path(staging)
    if output.exists() and _exchange(staging, output):
        try:
            fsync_path(parent)
        except OSError:
            _exchange(staging, output)
            raise
        return
    old = Path(tempfile.mkdtemp(prefix=f".{output.name}.", suffix=".old", dir=parent))
    try:
        if output.exists():
            output.rename(old / "bundle")
        staging.rename(output)
        fsync_path(parent)
    except BaseException:
        # Between the two renames there is no output.
        if not output.exists() and (old / "bundle").exists():
            (old / "bundle").rename(output)
        raise
    finally:
        if output.exists() or not (old / "bundle").exists():
            shutil.rmtree(old, ignore_errors=True)


_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


def _exchange(one: Path, other: Path) -> bool:
    """Two names change places in one step, so that at no moment there is none; Linux only."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    return bool(rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)
