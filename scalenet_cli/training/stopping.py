"""Signals that ask a run to stop: it finishes its step and saves; Ctrl-C twice quits at once."""

import signal
from types import FrameType
from typing import Any, Final, final

_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # Slurm warns with SIGUSR1


@final
class Stopper:
    """Takes note of signals while it is entered; only the main thread can."""

    def __init__(self) -> None:
        self.request: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Stopper":
        for name in _SIGNALS:
            number = signal.Signals.__members__.get(name)
            if number is None or _nohup(number):
                continue
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
