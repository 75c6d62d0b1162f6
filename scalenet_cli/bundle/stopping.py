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
        self._arrived: tuple[int, FrameType | None] | None = None
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
        """Raises for what arrived so far; what comes later comes too late to stop anything."""
        self._holding = True
        if self._arrived is not None:
            number, frame = self._arrived
            self._handlers[number](number, frame)

    def _notice(self, number: int, frame: FrameType | None) -> None:
        self._arrived = (number, frame)
        if not self._holding:
            self._handlers[number](number, frame)


@contextmanager
def stop_requests() -> Iterator[StopRequests]:
    """Listens while the block runs."""
    requests = StopRequests()
    try:
        requests.install()
        yield requests
    finally:
        requests.remove()
