"""Requests to stop, workers and their parents, and how long the rest takes."""

import os
import select
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from multiprocessing import Pipe, get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from scalenet_cli.cli.compare_table import StudyProgress, show
from scalenet_cli.errors import StoppedOnRequest
from scalenet_cli.study.folder import Cell, StudyFolder
from scalenet_cli.study.progress import Pace
from scalenet_cli.study.worker import Setting, follow_parent, work
from tests.study.helpers import Made, Watch, run_study, without

unix = pytest.mark.skipif(sys.platform == "win32", reason="signals and fork are of Unix")


class Asking(Watch):
    """Asks the process to stop in a step of a cell."""

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        if self.began_cells[-1] == self._cell and step == self._step:
            os.kill(os.getpid(), signal.SIGTERM)


@unix
def test_a_request_in_the_last_step_of_a_cell_ends_the_study(made: Made, tmp_path: Path) -> None:
    study, out, _, _ = made
    copy, watch = without(out, tmp_path / "out", "swa", "nan"), Asking("swa/seed-0", 4)
    with pytest.raises(StoppedOnRequest, match="SIGTERM after the last step of cell swa") as raised:
        run_study(study, copy, watch)
    assert raised.value.hint == "the same command goes on from there"
    assert watch.began_cells == ["swa/seed-0"]
    assert (copy / "cells" / "swa" / "seed-0.json").is_file()
    # In the last cell of all there is nothing left to stop.
    again = Asking("swa/seed-0", 4)
    (copy / "cells" / "swa" / "seed-0.json").unlink()
    run_study(study, copy, again, only=("swa",))
    assert (copy / "results.json").is_file()


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """SIGTERM as a run would take it: as a note."""
    numbers: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: numbers.append(number))
    yield numbers
    signal.signal(signal.SIGTERM, before)


def worked(tmp_path: Path) -> list[Any]:
    """What a worker says that is given two cells."""
    ours, theirs = Pipe()
    for seed in range(2):
        ours.send(Cell(SimpleNamespace(name="swa"), seed))  # type: ignore[arg-type]
    ours.send(None)
    work(Setting(StudyFolder(tmp_path), None, 1, None), theirs)  # type: ignore[arg-type]
    said = []
    while ours.poll():
        said.append(ours.recv())
    return said


@unix
def test_a_worker_does_not_begin_another_cell_after_a_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, heard: list[int]
) -> None:
    def run_cell(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("scalenet_cli.study.worker.run_cell", run_cell)
    (said,) = worked(tmp_path)
    assert isinstance(said, StoppedOnRequest)
    assert "cell swa/seed-0" in said.fact
    assert heard == [signal.SIGTERM]


def test_a_worker_says_nothing_of_ctrl_c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run_cell(*_: object) -> None:
        raise KeyboardInterrupt

    followed: list[bool] = []
    worker = "scalenet_cli.study.worker"
    monkeypatch.setattr(f"{worker}.run_cell", run_cell)
    monkeypatch.setattr(f"{worker}.follow_parent", lambda: followed.append(True))
    assert worked(tmp_path) == []
    assert followed == [True]


def orphan(write: int, _: object) -> None:
    follow_parent()
    os.write(write, b"ready")
    time.sleep(60)


def parent(write: int) -> None:
    get_context("fork").Process(target=orphan, args=(write, None)).start()
    time.sleep(60)


@unix
def test_a_worker_ends_with_its_parent() -> None:
    read, write = os.pipe()
    process = get_context("fork").Process(target=parent, args=(write,))
    process.start()
    os.close(write)
    assert os.read(read, 5) == b"ready"
    process.kill()
    process.join()
    # What is read is the end of the file, once nobody is left who could write to it.
    assert select.select([read], [], [], 20)[0]
    assert os.read(read, 5) == b""
    os.close(read)


def test_the_rest_is_judged_by_the_steps_that_were_done_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    cost = SimpleNamespace(train_flops=5, batch_size=2, steps=10, total_train_flops=100)
    one, two = (Cell(SimpleNamespace(name=name, cost=cost), 0) for name in "ab")  # type: ignore[arg-type]
    pace = Pace([one, two])
    pace.began(one, 4)  # these were done earlier
    assert pace.seconds_left is None
    clock.now = 8.0
    pace.reached(one, 6)
    assert pace.seconds_left == 4.0 * (4 + 10)
    pace.finished(one)  # it diverged
    assert pace.seconds_left == 4.0 * 10
    pace.began(two, 0)
    pace.reached(two, 10)
    pace.finished(two)
    assert pace.seconds_left == 0


def test_progress_says_how_long_the_rest_takes(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    with StudyProgress(as_json=False, jobs=2) as progress:
        progress.began("swa/seed-0", 1, 2, None)
        progress.left(5400)
    assert capsys.readouterr().err == "cell 1 of 2: swa/seed-0\nabout 1 h 30 min left\n"
    show(made[2])
    assert (
        "timings.json, curves.png, parameters.png, compute.png, cells/" in capsys.readouterr().out
    )
