"""A folder that appears whole or not at all."""

import ctypes
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scalenet_cli.errors import OutputUnwritable
from scalenet_cli.files.durable import fsync_path
from scalenet_cli.files.stop_requests import stop_requests


@contextmanager
def staged_folder(output: Path, require_free: Callable[[], None]) -> Iterator[Path]:
    """A sibling folder to write into; it takes the output's name when the block ends well.

    On any failure, Ctrl-C included, it is removed and the old state stays. A request to stop that
    arrives while the folders are exchanged comes too late: the output is there.

    ``require_free`` raises where the output may not be written or replaced. It is asked before the
    block, and once more after it.

    Raises:
        OutputUnwritable: a full disk, for instance; also what ``require_free`` raises.
    """
    require_free()
    parent = output.absolute().parent
    # Named before it is made: a signal may arrive right after that.
    staging = parent / f".{output.name}.{secrets.token_hex(8)}.partial"
    try:
        with stop_requests() as requests:
            staging.mkdir(mode=0o700)
            yield staging
            require_free()  # once more: it may have appeared meanwhile
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


def require_writable_parent(output: Path) -> None:
    """The folder that the output would lie in is there, and may be written to.

    Raises:
        OutputUnwritable: it is not so.
    """
    parent = output.absolute().parent
    if not parent.is_dir():
        raise OutputUnwritable(
            f"{parent} is no folder", where=str(output), hint="make that folder first"
        )
    if not os.access(parent, os.W_OK | os.X_OK):
        raise OutputUnwritable(f"no permission to write in {parent}", where=str(output))


def put_back(kept: Path, output: Path) -> None:
    """An older folder gets its name back, after a kill between two renames."""
    kept.rename(output)


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
