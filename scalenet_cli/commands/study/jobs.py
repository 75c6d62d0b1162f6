"""Cells side by side: one process each, each with a device of its own."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Final, Protocol, final

from scalenet_cli.commands.study.cells import CellOptions, run_cell
from scalenet_cli.commands.study.folder import Cell, StudyFolder
from scalenet_cli.errors import DeviceUnavailable, ScalenetError, WorkerLost
from scalenet_cli.training.devices import find_device
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.task import Scores

_GRACE_SECONDS: Final = 120.0


class StudyReporter(Reporter, Protocol):
    """Hears of cells beside what happens in them."""

    def began(self, cell: str, order: int, num_cells: int, seconds_left: float | None) -> None:
        """A cell starts or goes on; ``seconds_left`` is of the whole study, where it is known."""
        ...


@final
class Pace:
    """How long the rest takes, judged by the training FLOPs of what was done here."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._left = sum(cell.arm.cost.total_train_flops for cell in cells)
        self._done = 0
        self._start = time.perf_counter()

    def finished(self, cell: Cell) -> None:
        """A cell is done."""
        self._done += cell.arm.cost.total_train_flops
        self._left -= cell.arm.cost.total_train_flops

    @property
    def seconds_left(self) -> float | None:
        """None before anything is done."""
        if not self._done:
            return None
        return (time.perf_counter() - self._start) * self._left / self._done


def run_in_turn(
    folder: StudyFolder, cells: Sequence[Cell], options: CellOptions, reporter: StudyReporter
) -> None:
    """One cell after the other, in this process."""
    pace = Pace(cells)
    for order, cell in enumerate(cells):
        reporter.began(cell.name, order + 1, len(cells), pace.seconds_left)
        run_cell(folder, cell, options, reporter)
        pace.finished(cell)


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


@dataclass(frozen=True, slots=True)
class Setting:
    """What a worker needs beside its cells. ``threads`` are those of the process that starts it.

    With as many threads sums have the same order, and results the same bits.
    """

    folder: StudyFolder
    options: CellOptions
    threads: int
    gpu: str | None


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
                done = workers[connection].hear(reporter)
                if done is not None:
                    pace.finished(done)
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
        self.process.start()
        theirs.close()

    def start(self, cell: Cell) -> None:
        """Gives it a cell."""
        self._cell = cell
        self.connection.send(cell)

    def hear(self, reporter: StudyReporter) -> Cell | None:
        """Passes on what it says; returns the cell that it has finished.

        Raises:
            ScalenetError: what the cell raised.
            WorkerLost: the process has ended.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join(_GRACE_SECONDS)
            name = self._cell.name if self._cell is not None else "none"
            raise WorkerLost(
                f"the process of cell {name} ended with status {self.process.exitcode}",
                hint="the same command goes on with what is left",
            ) from None
        if isinstance(message, ScalenetError):
            raise message
        if message is not None:
            reporter.note(message)
            return None
        return self._cell


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


@final
class _Telling:
    """The reporter of a worker: evaluations and notes, under the cell's name."""

    def __init__(self, cell: str, connection: Connection) -> None:
        self._cell, self._connection = cell, connection

    def started(self, first_step: int, last_step: int) -> None:
        """See Reporter."""

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """See Reporter."""
        self.note(f"step {step}: {scores.text}")

    def note(self, text: str) -> None:
        """See Reporter."""
        # Where nobody listens any more, the process is about to be stopped.
        with suppress(OSError):
            self._connection.send(f"{self._cell}: {text}")


def work(setting: Setting, connection: Connection) -> None:
    """The whole life of a worker: says None after each cell, or the error that ends it.

    It hears of cells, and of None when there are no more.
    """
    if setting.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = setting.gpu
    import torch

    torch.set_num_threads(setting.threads)
    with suppress(EOFError, ConnectionError):
        while (cell := connection.recv()) is not None:
            try:
                run_cell(setting.folder, cell, setting.options, _Telling(cell.name, connection))
            except ScalenetError as error:
                error.where = error.where or cell.name
                connection.send(error)
                return
            connection.send(None)
