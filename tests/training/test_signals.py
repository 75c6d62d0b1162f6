"""A request to stop: the step is finished, the state saved, and the status says so."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from scalenet_cli.cli.app import main
from scalenet_cli.cli.progress import TerminalReporter
from tests.training.children import Child, Server, as_rank, free_port
from tests.training.runs import HEAD_NOTE, RECIPE, contents, metrics, slow

SHORT = {**RECIPE, "epochs": 2, "save_steps": 3, "ema_decay": 0.9}
STEPS = 8
STOPPED = 5


def arguments(bundle: Path, data: Path, run: Path) -> list[str]:
    """The command line without its program."""
    settings = [f"--set={key}={json.dumps(value)}" for key, value in SHORT.items()]
    return [
        "finetune", str(bundle), "--data", str(data), "-o", str(run),
        "--device", "cpu", "--workers", "1", *settings,
    ]  # fmt: skip


def command(
    bundle: Path, data: Path, run: Path, *more: str, at: int = 0, signals: tuple[int, ...] = ()
) -> None:
    """The command line; signals for its whole process group arrive when a step is reported."""

    def stepped(self: TerminalReporter, step: int, values: Mapping[str, float]) -> None:
        if step == at and self.is_main:
            for number in signals:
                os.killpg(0, number)

    sys.argv = ["scalenet", *arguments(bundle, data, run), *more]
    with patch.object(TerminalReporter, "stepped", stepped):
        main()


@pytest.fixture(scope="module")
def whole(
    server: Server, bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that nobody stops."""
    folder = tmp_path_factory.mktemp("whole")
    child = server.start(folder / "log", command, bundle, data, folder / "run")
    assert child.wait() == 0, child.text()
    return folder / "run"


def resume(server: Server, bundle: Path, data: Path, run: Path) -> Child:
    child = server.start(run.with_suffix(".resumed"), command, bundle, data, run, "--resume")
    assert child.wait() == 0, child.text()
    return child


def command_under_nohup(bundle: Path, data: Path, run: Path) -> None:
    """As nohup does: the signal is ignored before Python starts to listen."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    command(bundle, data, run, at=2, signals=(signal.SIGHUP,))


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path
) -> None:
    child = server.start(tmp_path / "log", command_under_nohup, bundle, data, tmp_path / "run")
    assert child.wait() == 0, child.text()
    assert metrics(tmp_path / "run") == metrics(whole)


# In mid-epoch; where an evaluation and a checkpoint are due anyway.
CASES = [slow(signal.SIGTERM, 2), slow(signal.SIGUSR1, 4), (signal.SIGINT, 5)]


@pytest.mark.parametrize(("number", "step"), CASES)
def test_signal_saves_and_has_a_status_of_its_own(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path, number: int, step: int
) -> None:
    run = tmp_path / "run"
    child = server.start(tmp_path / "log", command, bundle, data, run, at=step, signals=(number,))
    assert child.wait() == STOPPED, child.text()
    name = signal.Signals(number).name
    usual = ("step ", f"note: {HEAD_NOTE}")
    told = [line for line in child.text().splitlines() if not line.startswith(usual)]
    assert told == [
        f"error[stopped]: stopped by {name} after step {step} of {STEPS}; its state is saved",
        f"  where: {run}",
        "  hint:  the same command with --resume goes on from there",
    ]
    assert metrics(run)[-1]["step"] == step
    resume(server, bundle, data, run)
    assert contents(run) == contents(whole)


@pytest.mark.slow
def test_ctrl_c_twice_quits(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    twice = (signal.SIGINT, signal.SIGINT)
    child = server.start(tmp_path / "log", command, bundle, data, run, at=4, signals=twice)
    assert child.wait() == 130, child.text()
    usual = ("step ", f"note: {HEAD_NOTE}")
    told = [line for line in child.text().splitlines() if not line.startswith(usual)]
    assert told == ["interrupted: --resume goes on from the last checkpoint"]
    assert [path.name for path in run.glob("state-*")] == ["state-000000003"]
    resume(server, bundle, data, run)
    assert contents(run) == contents(whole)


def test_signal_at_the_last_step_comes_too_late(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path
) -> None:
    run = tmp_path / "run"
    child = server.start(
        tmp_path / "log", command, bundle, data, run, at=STEPS, signals=(signal.SIGTERM,)
    )
    assert child.wait() == 0, child.text()
    assert contents(run) == contents(whole)


def rank_command(rank: int, port: int, *arguments: Any, **named: Any) -> None:
    """One of two ranks, as a launcher would start it."""
    with as_rank(rank, 2, port):
        command(*arguments, **named)


def test_signal_to_one_rank_stops_both_and_is_told_once(
    server: Server, bundle: Path, data: Path, tmp_path: Path
) -> None:
    run, port = tmp_path / "run", free_port()
    ranks = [
        server.start(
            tmp_path / f"log{rank}", rank_command, rank, port, bundle, data, run,
            at=2, signals=(signal.SIGTERM,),
        )
        for rank in range(2)
    ]  # fmt: skip
    assert [rank.wait() for rank in ranks] == [STOPPED, STOPPED], [r.text() for r in ranks]
    assert ranks[0].text().count("error[stopped]: stopped by SIGTERM after step 2") == 1
    assert "error" not in ranks[1].text()
    assert metrics(run)[-1]["step"] == 2


@pytest.mark.slow
def test_sigterm_to_torchrun_saves(bundle: Path, data: Path, tmp_path: Path) -> None:
    """It passes the signal on, and waits; its own status is 1."""
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m",
        "scalenet_cli",
    ]  # fmt: skip
    run, long = tmp_path / "run", ("--set=epochs=400", "--set=save_steps=null")
    command = [arg for arg in arguments(bundle, data, run) if "epochs=2" not in arg]
    command = [arg for arg in command if "save_steps" not in arg]
    process = subprocess.Popen(
        [*launcher, *command, *long], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        wait_for(lambda: (run / "metrics.jsonl").is_file() and bool(metrics(run)[3:]), process)
        process.terminate()
        _, told = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1
    assert told.count("error[stopped]: stopped by SIGTERM after step") == 1, told
    (state,) = run.glob("state-*")
    assert f"after step {int(state.name.removeprefix('state-'))} of 1600" in told


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
