"""Signals that ask a command to stop: obeyed at once, after a block, or after a training step.

``stop_requests`` raises what a library has swallowed, ``requests_wait`` delays what must not
interrupt an import, ``Stopper`` only takes a note for a training run, and ``SignalRecorder`` sees
what others have handled.
"""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final, final


def _known(*names: str) -> tuple[signal.Signals, ...]:
    """Those that this system has: Windows has no SIGHUP."""
    known = signal.Signals.__members__
    return tuple(known[name] for name in names if name in known)


# What ends a command; a run in training also obeys SIGUSR1, with which Slurm warns.
STOP_SIGNALS: Final = _known("SIGINT", "SIGTERM", "SIGHUP")
RUN_STOP_SIGNALS: Final = (*STOP_SIGNALS, *_known("SIGUSR1"))


@final
class StopRequests:
    """The signals that arrived while a folder was being written.

    Their own handlers still run, and raise. But an import that catches everything, as torch's of
    numpy does, swallows that exception, and the work would go on as if nobody had asked.
    """

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._swallowed: tuple[int, FrameType | None] | None = None
        self._holding = False

    def install(self) -> None:
        """Listens to every signal that has a Python handler; threads cannot."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in STOP_SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self._notice)

    def remove(self) -> None:
        """Puts the handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def hold(self) -> None:
        """Raises what was swallowed; what is raised from now on comes too late to stop anything."""
        self.insist()
        self._holding = True

    def insist(self) -> None:
        """Raises once more what the first request raised; nothing where there was none."""
        if self._swallowed is not None:
            number, frame = self._swallowed
            self._handlers[number](number, frame)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        try:
            self._handlers[number](number, frame)
        except BaseException:
            # A handler that only takes a note, as that of a training run, raises nothing.
            if not self._holding:
                self._swallowed = (number, frame)
                raise


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listens while the block runs."""
    requests = StopRequests()
    try:
        requests.install()
        yield requests
    except Exception:
        # An import that was interrupted may fail with an error of its own, which is none.
        requests.insist()
        raise
    finally:
        requests.remove()


@contextmanager
def requests_wait() -> Iterator[None]:
    """Inside, a request to stop is noted, and obeyed at the end.

    For imports of native libraries: torch aborts the process where its initialisation meets an
    exception.
    """
    noted: list[tuple[int, FrameType | None]] = []
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in STOP_SIGNALS:
            if callable(signal.getsignal(number)):
                handlers[number] = signal.getsignal(number)
                signal.signal(number, lambda number, frame: noted.append((number, frame)))
    try:
        yield
    finally:
        for known, handler in handlers.items():
            signal.signal(known, handler)
        if noted:
            first, frame = noted[0]
            handlers[first](first, frame)


@final
class Stopper:
    """A training run finishes its step and saves; Ctrl-C twice quits at once.

    Takes note of signals while it is entered; only the main thread can.
    """

    def __init__(self) -> None:
        self.request: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stopper":
        for number in RUN_STOP_SIGNALS:
            if not _nohup(number):
                self._previous[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _notice(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.request is not None:
            raise KeyboardInterrupt("--resume goes on from the last checkpoint")
        self.request = signal.Signals(number).name


def _nohup(number: signal.Signals) -> bool:
    """Whether the terminal may hang up without ending the run.

    Not so for SIGINT, which shells ignore for jobs in the background: asked for, it ends a run.
    """
    return number.name == "SIGHUP" and signal.getsignal(number) is signal.SIG_IGN


@final
class SignalRecorder:
    """Takes note of signals while it is entered, whoever handles them; only the main thread can.

    A run in its last step obeys none: there is nothing left to stop.

    Python writes the number of each signal that it handles to a socket. So handlers that a run puts
    in place of earlier ones hide nothing.
    """

    def __init__(self) -> None:
        self._written, self._read = socket.socketpair()
        self._written.setblocking(False)
        self._read.setblocking(False)
        self._previous = -1

    def __enter__(self) -> "SignalRecorder":
        descriptor = self._written.fileno()
        self._previous = signal.set_wakeup_fd(descriptor, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._previous)
        self._written.close()
        self._read.close()

    def first(self) -> str | None:
        """The name of the first one since this was last asked."""
        try:
            numbers = self._read.recv(4096)
        except BlockingIOError:
            return None
        return next((signal.Signals(n).name for n in numbers if n in RUN_STOP_SIGNALS), None)
