"""stdout and stderr that may go away while a command works: a lost reader stops no run.

A write to them fails when the reader of a pipe has ended, a terminal was closed, or a disk is full.
What goes to stderr is then dropped. What goes to stdout is the result of most commands, which end
there; those that leave a folder go on.
"""

import errno
import io
import os
import select
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TextIO, final

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# "reader": it has ended. "output": nobody has the result, for a full disk or a closed stdout.
Loss = Literal["reader", "output"]


@final
class _Stream(io.FileIO):
    """A standard stream that drops what it cannot write.

    ``failure`` is the first reason. Where ``raises``, that one is raised, so that whoever makes a
    result stops.
    """

    def __init__(self, descriptor: int, *, raises: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.raises = raises
        self.failure: OSError | None = None
        self._is_terminal = self.isatty()

    def write(self, data: "ReadableBuffer") -> int:
        """Writes what it can of the data; says all where it has dropped them."""
        try:
            # None of a pipe that is full, and that another program has made non-blocking.
            while (written := super().write(data)) is None:
                select.select((), (self.fileno(),), ())
        except OSError as error:
            if self.failure is None:
                self._fail(error)
            return memoryview(data).nbytes
        return int(written)

    def lost(self) -> bool:
        """Whether there is nobody any more who could read it."""
        gone = (errno.EPIPE, errno.EIO) if self._is_terminal else (errno.EPIPE,)
        return self.failure is not None and self.failure.errno in gone

    def _fail(self, error: OSError) -> None:
        self.failure = error
        if self.lost():
            # For libraries that write to the descriptor, and for processes that are yet to start.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
        if self.raises:
            raise error


_stdout: _Stream | None = None
_CLOSED: Final = OSError(errno.EBADF, "stdout is closed")


def guard_streams() -> None:
    """Puts such streams in the place of stdout and stderr, unless somebody else has replaced them.

    Descriptors that were closed lead nowhere from now on: otherwise the next file that is opened
    would get the number of stdout, and what a library prints would go there.
    """
    global _stdout
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number
    if sys.stdout is sys.__stdout__:
        _stdout = _raw(sys.stdout, raises=True)
        sys.stdout = _text(_stdout, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(_raw(sys.stderr, raises=False), sys.stderr)


def outlive_readers() -> None:
    """From now on a stdout that is lost stops nothing: what the command makes is a folder."""
    if _stdout is not None:
        _stdout.raises = False


def stopped_by_output() -> bool:
    """Whether an error of stdout was raised, which ends the making of a result."""
    return _stdout is not None and _stdout.raises and _stdout.failure not in (None, _CLOSED)


def lost_output() -> Loss | None:
    """What became of the result on stdout; None where it was written, or a folder is the result."""
    if _stdout is None:
        return None
    with suppress(OSError, ValueError):  # it is told below; a library may have closed stdout
        sys.stdout.flush()
    if _stdout.failure is None:
        return None
    nobody_asked = _stdout.lost() or _stdout.failure is _CLOSED
    if nobody_asked and not _stdout.raises:
        return None
    return "reader" if _stdout.lost() else "output"


def output_failure() -> str:
    """Why the result was not written."""
    assert _stdout is not None
    assert _stdout.failure is not None
    return _stdout.failure.strerror or str(_stdout.failure)


def _raw(old: TextIO | None, *, raises: bool) -> _Stream:
    """The stream below a text stream; Python has none where the descriptor was closed."""
    if old is not None:
        return _Stream(old.fileno(), raises=raises)
    stream = _Stream(os.open(os.devnull, os.O_WRONLY), raises=raises)
    stream.failure = _CLOSED
    return stream


def _text(raw: _Stream, old: TextIO | None) -> TextIO:
    """A text stream like the old one."""
    if old is None:
        return io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8", line_buffering=True)
    assert isinstance(old, io.TextIOWrapper)
    with suppress(OSError):
        old.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering or old.write_through,
    )
