"""Runs that lose a rank, a worker, the disk or their permission, and go on afterwards."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from unittest.mock import patch

import pytest

from scalenet_cli import load
from scalenet_cli.cli.app import main
from scalenet_cli.cli.progress import TerminalReporter
from scalenet_cli.tasks.image_classification.evaluation.accuracy import Evaluation
from tests.training.children import Child, Server, as_rank, free_port
from tests.training.runs import HEAD_NOTE, RECIPE, contents, metrics, slow

SHORT = {**RECIPE, "epochs": 2, "save_steps": 3}
MINUTE = 60
DATA, STOPPED, INTERRUPTED = 3, 5, 130
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits of a process")
Event = Callable[[Path], None]


def command(
    bundle: Path, data: Path, run: Path, *more: str, at: int = -1, event: Event | None = None
) -> None:
    """The command line; something happens after a step, or after the evaluation of step 0."""
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SHORT.items()]

    def stepped(self: TerminalReporter, step: int, values: Mapping[str, float]) -> None:
        if step == at and event is not None:
            event(run)

    def evaluated(self: TerminalReporter, step: int, result: Evaluation) -> None:
        if step == at == 0 and event is not None:
            event(run)

    sys.argv = [
        "scalenet", "finetune", str(bundle), "--data", str(data), "-o", str(run), "--device",
        "cpu", "--workers", "1", *settings, *more,
    ]  # fmt: skip
    with (
        patch.object(TerminalReporter, "stepped", stepped),
        patch.object(TerminalReporter, "evaluated", evaluated),
    ):
        main()


def rank_command(
    rank: int, port: int, bundle: Path, data: Path, run: Path, *more: str, at: int = -1
) -> None:
    """One of two ranks; the second kills itself, without a word, after a step."""
    with as_rank(rank, 2, port):
        command(bundle, data, run, *more, at=at, event=die if rank == 1 else None)


def die(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_a_worker(_: Path) -> None:
    worker = multiprocessing.active_children()[0]
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    time.sleep(MINUTE)  # until torch hears of it


def fill_the_disk(_: Path) -> None:
    """From now on no bundle can be written: the kernel refuses, as it does on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def fill_the_disk_with_a_bundle(_: Path) -> None:
    """A bundle still fits, but the state after it does not."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))


def lock(run: Path) -> None:
    """The folder may no longer be written to."""
    run.chmod(0o500)
    if os.geteuid() == 0:
        os.seteuid(65534)


def terminate(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def interrupt(_: Path) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def whole(
    server: Server, bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run to which nothing happens."""
    folder = tmp_path_factory.mktemp("whole")
    child = server.start(folder / "log", command, bundle, data, folder / "run")
    assert child.wait() == 0, child.text()
    return folder / "run"


def story(child: Child) -> list[str]:
    """What was said, but for the evaluations and HEAD_NOTE."""
    text = child.text()
    assert "Traceback" not in text, text
    usual = ("step ", f"note: {HEAD_NOTE}")
    return [line for line in text.splitlines() if not line.startswith(usual)]


@pytest.mark.parametrize(
    ("event", "says"),
    [
        (fill_the_disk, "error[output-unwritable]: writing failed: File too large"),
        slow(fill_the_disk_with_a_bundle, "error[output-unwritable]: writing failed: File too l"),
        slow(lock, ("error[output-unwritable]: no permission", "error[system]: Permission den")),
        slow(kill_a_worker, "error[worker-lost]: a process that loads data has ended: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_was_saved_before_stays(
    server: Server,
    bundle: Path,
    data: Path,
    tmp_path: Path,
    whole: Path,
    event: Event,
    says: str | tuple[str, ...],
) -> None:
    run = tmp_path / "run"
    child = server.start(
        tmp_path / "log", command, bundle, data, run, at=5, event=event
    )  # fmt: skip
    assert child.wait() == DATA, child.text()
    told = story(child)
    assert told[0].startswith(says), child.text()
    assert [line[:8] for line in told[1:]] in (["  where:", "  hint: "], ["  hint: "], ["  where:"])
    run.chmod(0o755)
    assert [path.name for path in run.glob("state-*")] == ["state-000000004"]
    assert not list(run.glob(".*.partial"))
    for name in ("last", "best"):
        load(run / name)
    again = server.start(tmp_path / "again", command, bundle, data, run, "--resume")
    assert again.wait() == 0, again.text()
    assert contents(run) == contents(whole)


@pytest.mark.parametrize("event", [slow(terminate), interrupt], ids=["SIGTERM", "SIGINT"])
def test_a_run_that_ends_in_its_first_evaluation_can_be_resumed(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path, event: Event
) -> None:
    run = tmp_path / "run"
    child = server.start(tmp_path / "log", command, bundle, data, run, at=0, event=event)
    assert child.wait() == STOPPED, child.text()
    assert story(child)[0].endswith("after step 0 of 8; its state is saved")
    again = server.start(tmp_path / "again", command, bundle, data, run, "--resume")
    assert again.wait() == 0, again.text()
    assert contents(run) == contents(whole)


def test_ctrl_c_before_the_run_is_made_leaves_nothing(
    server: Server, bundle: Path, data: Path, tmp_path: Path
) -> None:
    child = server.start(tmp_path / "log", interrupted_early, bundle, data, tmp_path / "run")
    assert child.wait() == INTERRUPTED, child.text()
    assert story(child) == ["interrupted: nothing was changed"]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def interrupted_early(bundle: Path, data: Path, run: Path) -> None:
    """While the bundle is copied into the new run."""
    with patch("scalenet_cli.training.run_folder.recipe_text", lambda _: interrupt(run)):
        command(bundle, data, run)


@pytest.mark.slow
def test_a_rank_that_dies_stops_the_others_with_one_message(
    server: Server, bundle: Path, data: Path, tmp_path: Path
) -> None:
    run, port = tmp_path / "run", free_port()
    ranks = [
        server.start(tmp_path / f"log{r}", rank_command, r, port, bundle, data, run, at=5)
        for r in range(2)
    ]
    assert ranks[1].wait() == -signal.SIGKILL, ranks[1].text()
    assert ranks[0].wait(seconds=MINUTE) == DATA, ranks[0].text()
    told = [line for line in story(ranks[0]) if line.startswith("error[")]
    assert len(told) == 1
    assert told[0].startswith("error[rank-lost]: another rank does not answer")
    assert "add --resume" in ranks[0].text()
    port = free_port()
    again = [
        server.start(tmp_path / f"again{r}", rank_command, r, port, bundle, data, run, "--resume")
        for r in range(2)
    ]
    assert [rank.wait() for rank in again] == [0, 0], again[0].text()
    assert metrics(run)[-1]["step"] == 8


def test_what_is_wrong_on_every_rank_is_told_once(
    server: Server, bundle: Path, data: Path, tmp_path: Path
) -> None:
    port, run = free_port(), tmp_path / "run"
    ranks = [
        server.start(
            tmp_path / f"log{r}", rank_command, r, port, bundle, data, run, "--limit-train=2"
        )
        for r in range(2)
    ]
    assert [rank.wait() for rank in ranks] == [DATA, DATA], ranks[0].text()
    assert story(ranks[0])[0] == (
        "error[no-batch]: the training data have 2 samples, but a batch is 8"
    )
    assert story(ranks[1]) == []
    assert not run.exists()
