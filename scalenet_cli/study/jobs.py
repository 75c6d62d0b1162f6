"""Cells one after the other, or side by side: one process each, each with a device of its own."""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Final, final

from scalenet_cli.errors import DeviceUnavailable, ScalenetError, WorkerLost
from scalenet_cli.study.cells import CellOptions
from scalenet_cli.study.folder import Cell, StudyFolder
from scalenet_cli.study.progress import Pace, Paced, StudyReporter
from scalenet_cli.study.worker import Message, Setting, Steps, run_heard, work
from scalenet_cli.training.devices import find_device

_GRACE_SECONDS: Final = 120.0


def run_in_turn(
    folder: StudyFolder, cells: Sequence[Cell], options: CellOptions, reporter: StudyReporter
) -> None:
    """One cell after the other, in this process.

    Raises:
        StoppedOnRequest: a signal; what was done is saved.
        ScalenetError: a cell cannot go on.
    """
    pace = Pace(cells)
    for order, cell in enumerate(cells):
        inner = reporter.began(cell.name, order + 1, len(cells), pace.seconds_left)
        stopped = run_heard(folder, cell, options, Paced(cell, pace, inner, reporter.left))
        pace.finished(cell)
        if stopped is not None and order + 1 < len(cells):
            raise stopped


def choose_devices(jobs: int, device: str) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each job; None of those on the CPU.

    Raises:
        DeviceUnavailable: there are fewer GPUs than jobs.
    """
    if find_device(device).type != "cuda":
        return [None] * jobs
    import torch

    found = torch.cuda.device_count()
    if found < jobs:
        raise DeviceUnavailable(
            f"--jobs {jobs} needs as many GPUs, and PyTorch finds {found} here",
            hint=f"--jobs {found}",
        )
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = shown.split(",") if shown else [str(index) for index in range(found)]
    return list(names[:jobs])


def run_side_by_side(
    folder: StudyFolder,
    cells: Sequence[Cell],
    options: CellOptions,
    reporter: StudyReporter,
    devices: Sequence[str | None],
) -> None:
    """As many cells at a time as there are devices; the first that fails ends the others.

    Raises:
        ScalenetError: what a cell raised; the state of those under way is saved.
        WorkerLost: a process was killed.
    """
    import torch

    threads = torch.get_num_threads()
    waiting, pace = list(enumerate(cells)), Pace(cells)
    workers: dict[Connection, _Worker] = {}
    try:
        idle = [_Worker(Setting(folder, options, threads, gpu)) for gpu in devices[: len(cells)]]
        workers |= {worker.connection: worker for worker in idle}
        while waiting or len(idle) < len(workers):
            while waiting and idle:
                order, cell = waiting.pop(0)
                reporter.began(cell.name, order + 1, len(cells), pace.seconds_left)
                idle.pop(0).start(cell)
            for connection in wait(list(workers)):
                assert isinstance(connection, Connection)
                if workers[connection].hear(reporter, pace):
                    idle.append(workers[connection])
    finally:
        _stop(list(workers.values()))


@final
class _Worker:
    """A process that works on one cell after the other."""

    def __init__(self, setting: Setting) -> None:
        # Forking a process that has run torch's threads would leave locks of theirs held.
        context = get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(setting, theirs))
        self._cell: Cell | None = None
        with _deaf_children():
            self.process.start()
        theirs.close()

    def start(self, cell: Cell) -> None:
        """Gives it a cell."""
        self._cell = cell
        self.connection.send(cell)

    def hear(self, reporter: StudyReporter, pace: Pace) -> bool:
        """Passes on what it says; returns whether it has finished its cell.

        Raises:
            ScalenetError: what the cell raised.
            WorkerLost: the process has ended.
        """
        message = self._receive()
        if isinstance(message, ScalenetError):
            raise message
        if isinstance(message, str):
            reporter.note(message)
            return False
        assert self._cell is not None
        if message is None:
            pace.finished(self._cell)
            return True
        _count(message, self._cell, reporter, pace)
        return False

    def _receive(self) -> Message:
        try:
            message: Message = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(_GRACE_SECONDS)
            name = self._cell.name if self._cell is not None else "none"
            raise WorkerLost(
                f"the process of cell {name} ended with status {self.process.exitcode}",
                hint="the same command goes on with what is left",
            ) from None
        return message


def _count(steps: Steps, cell: Cell, reporter: StudyReporter, pace: Pace) -> None:
    """What Paced does in this process."""
    if steps.earlier:
        pace.began(cell, steps.done)
    else:
        pace.reached(cell, steps.done)
    if steps.evaluated and pace.seconds_left is not None:
        reporter.left(pace.seconds_left)


@contextmanager
def _deaf_children() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, but while they train.

    Otherwise each would say so with a traceback. This one hears of it, and asks them to end. Only
    the main thread can see to that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def _stop(workers: Sequence[_Worker]) -> None:
    """Asks those that still run to save and end; those without a cell have nothing to save."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.connection.close()
