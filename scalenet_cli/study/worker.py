"""A process of ``--jobs``: what it does, and what it tells the one that started it."""

import os
import signal
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import Final, final

from scalenet_cli.errors import ScalenetError, StoppedOnRequest
from scalenet_cli.files.standard_streams import guard_streams, outlive_readers
from scalenet_cli.files.stop_requests import SignalRecorder
from scalenet_cli.study.cells import CellOptions, run_cell
from scalenet_cli.study.folder import Cell, StudyFolder
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.training_task import Scores

_SECONDS_BETWEEN_STEPS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker needs beside its cells. ``threads`` are those of the process that starts it.

    With as many threads sums have the same order, and results the same bits.
    """

    folder: StudyFolder
    options: CellOptions
    threads: int
    gpu: str | None


@dataclass(frozen=True, slots=True)
class Steps:
    """How many steps of its cell are done; ``earlier`` ones before it went on with it."""

    done: int
    earlier: bool = False
    evaluated: bool = False


# What a worker says: a note, where it is, the error that ends it, None of a finished cell.
Message = str | Steps | ScalenetError | None


def run_heard(
    folder: StudyFolder, cell: Cell, options: CellOptions, reporter: Reporter
) -> StoppedOnRequest | None:
    """Runs a cell; returns what is to be raised before another one begins.

    In its last step a run ends whatever it was asked, for all is done and saved: it does not say
    that it was asked.

    Raises:
        StoppedOnRequest: a signal; the run's state was saved.
        ScalenetError: it cannot go on.
    """
    with SignalRecorder() as requests:
        run_cell(folder, cell, options, reporter)
        name = requests.first()
    if name is None:
        return None
    return StoppedOnRequest(
        f"stopped by {name} after the last step of cell {cell.name}",
        where=str(folder.path),
        hint="the same command goes on with what is left",
    )


def work(setting: Setting, connection: Connection) -> None:
    """The whole life of a worker: says None after each cell, or the error that ends it.

    It hears of cells, and of None when there are no more.
    """
    guard_streams()
    outlive_readers()
    # Ctrl-C reaches the parent as well, which has something to say about it.
    with suppress(EOFError, ConnectionError, KeyboardInterrupt):
        try:
            follow_parent()
            _work(setting, connection)
        except ScalenetError as error:
            connection.send(error)


def _work(setting: Setting, connection: Connection) -> None:
    if setting.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setting.gpu
    import torch

    torch.set_num_threads(setting.threads)
    while (cell := connection.recv()) is not None:
        try:
            telling = Telling(cell.name, connection)
            stopped = run_heard(setting.folder, cell, setting.options, telling)
        except ScalenetError as error:
            error.where = error.where or cell.name
            raise
        if stopped is not None:
            raise stopped
        connection.send(None)


def follow_parent() -> None:
    """Asks this process to save and end as soon as its parent has, be it by `kill -9`."""
    parent = parent_process()
    if parent is None:
        return

    def follow() -> None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=follow, daemon=True).start()


@final
class Telling:
    """The reporter of a worker: notes and evaluations under the cell's name, steps now and then."""

    def __init__(self, cell: str, connection: Connection) -> None:
        self._cell, self._connection = cell, connection
        self._told = time.monotonic()

    def started(self, first_step: int, last_step: int) -> None:
        """See Reporter."""
        self._send(Steps(first_step, earlier=True))

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        if time.monotonic() - self._told > _SECONDS_BETWEEN_STEPS:
            self._told = time.monotonic()
            self._send(Steps(step))

    def evaluated(self, step: int, scores: Scores) -> None:
        """See Reporter."""
        self.note(f"step {step}: {scores.text}")
        self._send(Steps(step, evaluated=True))

    def note(self, text: str) -> None:
        """See Reporter."""
        self._send(f"{self._cell}: {text}")

    def _send(self, message: Message) -> None:
        # Where nobody listens any more, the process is about to be stopped.
        with suppress(OSError):
            self._connection.send(message)
