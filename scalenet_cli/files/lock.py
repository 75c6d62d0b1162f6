"""One writer at a time in a folder; whoever held its lock and died holds it no more.

The lock is a small file that people can read. It names host, process and time, and is removed at
the end. The kernel's lock on that file (flock) says whether the one it names is alive. Where the
file system has no such locks, the file's being there is the lock, and the process that it names is
looked up.
"""

import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from scalenet_cli.errors import OutputInUse, OutputUnwritable
from scalenet_cli.files.lock_holder import Holder, state_of, this_process

if sys.platform != "win32":
    import fcntl

    _FLAGS: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK

INSIDE: Final = ".lock"
_MAX_BYTES: Final = 10_000
# So long a file may be empty whose maker is about to write its name into it.
_PATIENCE_SECONDS: Final = 0.5


@final
@dataclass(frozen=True, slots=True)
class _Held:
    """A lock of this process, and the thread that may take it once more."""

    descriptor: int
    thread: int


_held: dict[Path, _Held] = {}


def _forget_in_child() -> None:
    """A process that is forked meanwhile, to load data for instance, holds no lock of its parent.

    Otherwise those that live on for a while after their parent was killed would keep it.
    """
    for held in _held.values():
        os.close(held.descriptor)
    _held.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_forget_in_child)


@contextmanager
def sole_writer(folder: Path, *, in_place: bool = False) -> Iterator[None]:
    """Nobody else writes to the folder, which may be yet to be made; a second command is refused.

    The lock lies beside the folder, so that the folder can be exchanged as a whole. One that is
    written to ``in_place`` has it inside where the folder around it cannot be written to. The
    thread that holds a lock may take it again. Windows has no locks of this kind, and gets none.

    Raises:
        OutputInUse: another process or thread does, or one on another machine may.
        OutputUnwritable: no lock can be made there.
    """
    if sys.platform == "win32":
        yield
        return
    path = _place(folder, in_place=in_place)
    mine = _held.get(path)
    if mine is not None and mine.thread == threading.get_ident():
        yield
        return
    process = os.getpid()
    made: list[Path] = []
    try:
        descriptor = _acquire(path, folder, made)
        try:
            _held[path] = _Held(descriptor, threading.get_ident())
            yield
        finally:
            if os.getpid() == process:
                _release(path, descriptor)
    finally:
        for parent in made:
            with suppress(OSError):  # it is in use now
                parent.rmdir()


def _place(folder: Path, *, in_place: bool) -> Path:
    """Where the lock lies; the same for every path that leads to the folder."""
    place = Path(os.path.realpath(folder))
    if in_place and place.is_dir() and not os.access(place.parent, os.W_OK | os.X_OK):
        return place / INSIDE
    return place.with_name(f".{place.name}.lock")


def _acquire(path: Path, folder: Path, made: list[Path]) -> int:
    """A descriptor of the lock file, which now names this process.

    ``made`` gets the folders around it that were missing, the innermost first.
    """
    try:
        while True:
            descriptor, is_new = _open(path, made)
            try:
                if _is_taken(path, descriptor, folder, is_new=is_new):
                    _sign(path, descriptor)
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    except PermissionError:
        raise OutputUnwritable(
            f"no permission to write in {path.parent}", where=str(folder)
        ) from None
    except OSError as error:
        raise OutputUnwritable(
            f"its lock {path} cannot be made: {error.strerror}", where=str(folder)
        ) from None


def _open(path: Path, made: list[Path]) -> tuple[int, bool]:
    """The lock file, and whether it was not there before."""
    while True:
        try:
            return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            with suppress(FileNotFoundError):  # its owner has just ended
                return os.open(path, _FLAGS), False
        except FileNotFoundError:
            missing = [parent for parent in path.parents if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            made += missing


def _is_taken(path: Path, descriptor: int, folder: Path, *, is_new: bool) -> bool:
    """Whether this process has the lock now; if not, the file is to be opened again.

    Raises:
        OutputInUse: somebody else has it.
        OutputUnwritable: the file is somebody's own.
    """
    locked = _lock(descriptor)
    if locked is None and is_new:
        return True
    if locked is False:
        raise _refusal(path, _read(descriptor, path, folder), folder)
    if locked and not _is_at(path, descriptor):
        return False  # removed by its owner, or replaced, since it was opened
    holder = _read(descriptor, path, folder, patience=0.0 if locked else _PATIENCE_SECONDS)
    state = "ended" if holder is None else state_of(holder, locked=bool(locked))
    if state != "ended":
        raise _refusal(path, holder, folder, is_certain=state == "running")
    if locked:
        return True
    _remove(path, holder, folder)
    return False


def _lock(descriptor: int) -> bool | None:
    """Whether this open file has the kernel's lock now; None where there are no such locks.

    A lock of flock belongs to the open file, so that threads exclude each other, too.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # ENOLCK, ENOSYS, EOPNOTSUPP: some network disks
        return None
    return True


def _read(
    descriptor: int, path: Path, folder: Path, patience: float = _PATIENCE_SECONDS
) -> Holder | None:
    """Whom the lock file names; None of an empty one, whose maker was killed before it signed.

    Raises:
        OutputUnwritable: it is no lock file of this tool, so it is left alone.
    """
    until = time.monotonic() + patience
    while True:
        is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
        content = os.pread(descriptor, _MAX_BYTES, 0) if is_file else b"a pipe, or the like"
        holder = Holder.parse(content)
        if holder is not None or time.monotonic() >= until:
            break
        time.sleep(0.01)
    if holder is None and content:
        raise OutputUnwritable(
            f"{path} is in the place of its lock, and is none of this tool",
            where=str(folder),
            hint="move it away, or choose another -o",
        )
    return holder


def _remove(path: Path, dead: Holder | None, folder: Path) -> None:
    """Removes the lock of a dead process, where no kernel's lock says who may.

    Two processes may find the same dead one. What the slower of them moves away is then the lock
    of the faster one, and goes back.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    with suppress(FileNotFoundError):
        path.rename(aside)
        moved = Holder.parse(aside.read_bytes())
        if moved != dead:
            aside.rename(path)
            raise _refusal(path, moved, folder)
        aside.unlink()


def _refusal(
    path: Path, holder: Holder | None, folder: Path, *, is_certain: bool = True
) -> OutputInUse:
    """What to say of a holder that is at work; or may be, where that is not certain."""
    if is_certain:
        return OutputInUse(
            "another command is writing there" + (f": {holder}" if holder else ""),
            where=str(folder),
            hint="wait for its end, or choose another -o",
        )
    here = socket.gethostname()
    return OutputInUse(
        f"a command on another machine is writing there, or was killed: {holder}",
        where=str(folder),
        hint=f"wait for its end; if it has ended, which cannot be seen from {here}, remove {path}",
    )


def _sign(path: Path, descriptor: int) -> None:
    """Puts this process's name into the file."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, this_process().text(), 0)
    except BaseException:
        with suppress(OSError):
            path.unlink()
        raise


def _release(path: Path, descriptor: int) -> None:
    """Removes the file while it is still locked: whoever has opened it notices, and looks again."""
    del _held[path]
    with suppress(OSError):
        # Somebody may have removed it by hand, and another command made one since.
        if _is_at(path, descriptor):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the open file is the one that has this name now."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
