"""One command at a time in a study's folder; whoever held a lock and died holds it no more."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scalenet_cli.errors import OutputUnwritable

if sys.platform != "win32":
    import fcntl

_COMMAND: Final = ".lock"
_WORKERS: Final = ".workers.lock"
LOCKS: Final = (_COMMAND, _WORKERS)


@contextmanager
def working_alone(folder: Path) -> Iterator[None]:
    """No other command is at work in the folder, nor a worker that an earlier one left behind.

    Raises:
        OutputUnwritable: one is, or the folder cannot be written to.
    """
    with _locked(
        folder / _COMMAND,
        "another command is at work in this folder",
        hint="wait for its end, or choose another -o",
    ):
        with _locked(
            folder / _WORKERS,
            "processes of a command that was killed are still saving their state",
            hint="start the command again in a minute",
        ):
            pass
        yield


@contextmanager
def working_along(folder: Path) -> Iterator[None]:
    """A worker is at work in the folder, and others may be.

    Raises:
        OutputUnwritable: the folder cannot be written to.
    """
    with _locked(folder / _WORKERS, "another command begins in this folder", shared=True):
        yield


@contextmanager
def _locked(
    path: Path, fact: str, *, hint: str | None = None, shared: bool = False
) -> Iterator[None]:
    """Holds a lock, where the platform and the file system have any.

    It belongs to this process alone. A lock of flock would be inherited by the processes that load
    data, which live on for a while after their parent was killed.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise OutputUnwritable(f"it cannot be written: {error.strerror}", where=str(path)) from None
    with file:
        if sys.platform != "win32":
            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
            try:
                fcntl.lockf(file, kind | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise OutputUnwritable(fact, where=str(path.parent), hint=hint) from None
            except OSError:
                pass  # some network disks have no locks
        yield
