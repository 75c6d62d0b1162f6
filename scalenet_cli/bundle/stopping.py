"""Requests to stop that no library can swallow, and a moment in which they have to wait."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")  # no SIGHUP on Windows


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
        for name in _SIGNALS:
            number = signal.Signals.__members__.get(name)
            handler = None if number is None else signal.getsignal(number)
            if number is not None and callable(handler):
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
        for name in _SIGNALS:
            number = signal.Signals.__members__.get(name)
            if number is not None and callable(signal.getsignal(number)):
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
