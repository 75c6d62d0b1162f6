"""Signals that a cell was too far to obey: in its last step there is nothing left to stop."""

import signal
import socket
from typing import Final, final

# Those that a run obeys, see training.stopping.
_NAMES: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")


@final
class Requests:
    """Takes note of signals while it is entered, whoever handles them; only the main thread can.

    Python writes the number of each signal that it handles to a socket. So handlers that a run puts
    in place of earlier ones hide nothing.
    """

    def __init__(self) -> None:
        self._written, self._read = socket.socketpair()
        self._written.setblocking(False)
        self._read.setblocking(False)
        self._previous = -1

    def __enter__(self) -> "Requests":
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
        known = {int(signal.Signals[name]) for name in _NAMES if name in signal.Signals.__members__}
        return next((signal.Signals(n).name for n in numbers if n in known), None)
