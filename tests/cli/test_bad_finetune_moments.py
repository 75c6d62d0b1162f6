"""The command line as people start it: under torchrun, on a full disk, into a closed pipe.

What a process can be told from within is in tests/training/test_bad_moments.py, which is faster.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scalenet_cli import load
from tests.cli.finetuning import command, without, write_ground
from tests.cli.helpers import DATA, in_use, snapshot
from tests.training.children import free_port
from tests.training.runs import contents

SECONDS = 120
MINUTE = 60
MANY = ("--max-steps", 2000, "--epochs", 500, "--save-steps", 5, "--set", "log_steps=1")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="signals, mounts and pipes"),
]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ground(tmp_path_factory.mktemp("ground"))


def torchrun(*arguments: object) -> list[str]:
    """Two gloo ranks."""
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
        "--master-port", str(free_port()), "-m", "scalenet_cli",
    ]  # fmt: skip
    return [*launcher, *map(str, arguments), "--device", "cpu"]


def ranks_of(launcher: int) -> list[int]:
    """The processes that a launcher has started."""
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.skipif(shutil.which("ps") is None, reason="finds the ranks with ps")
def test_a_rank_of_torchrun_that_is_killed(ground: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    long = ("finetune", ground / "out", "--data", ground / "data", "-o", run)
    settings = (*without("--max-steps", "--epochs"), *MANY)
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(
            torchrun(*long, *settings), stdout=subprocess.DEVNULL, stderr=log, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        deadline = time.monotonic() + SECONDS
        while not list(run.glob("state-*")):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
        killed = time.monotonic()
        assert process.wait(timeout=MINUTE) != 0
        assert time.monotonic() - killed < MINUTE
    ours = [line for line in (tmp_path / "log").read_text().splitlines() if "error[" in line]
    # torchrun may end the other rank before it has noticed anything.
    assert len(ours) <= 1, ours
    assert all("rank-lost" in line for line in ours), ours
    assert "scalenet_cli/" not in (tmp_path / "log").read_text(), "a traceback of ours"
    load(run / "last")
    done = json.loads(next(run.glob("state-*/state.json")).read_text())["progress"]["step"]
    assert done > 0
    again = subprocess.Popen(
        torchrun(*long, *settings, "--resume"), stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + SECONDS
    while f"state-{done:09d}" in (path.name for path in run.glob("state-*")):
        assert again.poll() is None, again.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    again.send_signal(signal.SIGTERM)  # torchrun hands it on
    again.communicate(timeout=MINUTE)
    assert not ranks_of(again.pid)


@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_disk_that_fills_up(ground: Path, tmp_path: Path) -> None:
    """In one mount: it fails, room is made, and it goes on."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["unshare", "-m", "sh", "-c"]
    probe = subprocess.run([*mount, 'mount -t tmpfs none "$1"', "sh", disk], capture_output=True)
    if probe.returncode:
        pytest.skip("mounting is not permitted here")
    # Room for the start and one checkpoint, but not for a second one beside the first.
    script = (
        'd=$1; shift; mount -t tmpfs -o size=560k none "$d"; "$@"; echo "status $?" >&2; '
        'ls -A "$d/run" >&2; mount -o remount,size=64m "$d"; "$@" --resume; echo "status $?" >&2; '
        'cp -r "$d/run" "$d/../result"'
    )
    arguments = command(ground, disk / "run", "--max-steps", 6, "--save-steps", 1)
    child = [sys.executable, "-m", "scalenet_cli", *map(str, arguments)]
    ended = subprocess.run(
        [*mount, script, "sh", str(disk), *child], capture_output=True, text=True, timeout=SECONDS
    )
    told = [line for line in ended.stderr.splitlines() if line[:5] != "step "]
    assert "Traceback" not in ended.stderr
    (error,) = (line for line in told if line.startswith("error["))
    assert "No space left on device" in error, ended.stderr
    assert f"status {DATA}" in told, ended.stderr
    assert told[-1] == "status 0", ended.stderr
    load(tmp_path / "result" / "last")
    load(tmp_path / "result" / "best")


def test_json_alone_on_stdout_and_a_reader_that_went_away(ground: Path, tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "scalenet_cli"]
    whole = [*arguments, *map(str, command(ground, tmp_path / "one", "--json"))]
    ended = subprocess.run(whole, capture_output=True, text=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["steps"] == 2
    reading, pipe = os.pipe()
    os.close(reading)
    try:
        closed = subprocess.run(
            [*arguments, *map(str, command(ground, tmp_path / "two", "--json"))], stdout=pipe,
            stderr=subprocess.PIPE, text=True, timeout=SECONDS,
        )  # fmt: skip
    finally:
        os.close(pipe)
    assert closed.returncode == 0, closed.stderr
    assert "Traceback" not in closed.stderr
    assert snapshot(tmp_path / "two" / "last") == snapshot(tmp_path / "one" / "last")


@pytest.mark.parametrize("workers", [0, 1, 9])
def test_any_number_of_workers_gives_the_same_run(
    ground: Path, tmp_path: Path, workers: int
) -> None:
    results = []
    for count in (0, workers):
        run = tmp_path / str(count)
        if not run.exists():
            arguments = ("finetune", ground / "out", "--data", ground / "data", "-o", run)
            options = (*without("--workers"), "--workers", count)
            line = [sys.executable, "-m", "scalenet_cli", *map(str, (*arguments, *options))]
            ended = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
            assert ended.returncode == 0, ended.stderr
        results.append(snapshot(run / "last"))
    assert results[0] == results[1]


def program(*arguments: object) -> list[str]:
    """The command line as a process."""
    return [sys.executable, "-m", "scalenet_cli", *map(str, arguments)]


def only_head(command: list[str], folder: Path) -> "subprocess.CompletedProcess[str]":
    """``2>&1 | head -1``, and the status of what comes before it."""
    script = '"$0" "$@" 2>&1 | head -1; exit "${PIPESTATUS[0]}"'
    return subprocess.run(
        ["bash", "-c", script, *command], capture_output=True, text=True, timeout=SECONDS,
        cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_of_which_only_the_first_line_is_read(
    ground: Path, tmp_path: Path, ranks: int
) -> None:
    arguments = command(ground, tmp_path / "run", "--save-steps", 1)
    line = program(*arguments) if ranks == 1 else torchrun(*arguments)
    ended = only_head(line, tmp_path)
    assert ended.returncode == 0, ended.stdout
    assert len(ended.stdout.splitlines()) == 1
    assert (tmp_path / "run" / "state-000000002").is_dir()
    assert (tmp_path / "run" / "curves.png").is_file()


def test_of_two_trainers_at_once_one_trains(ground: Path, tmp_path: Path) -> None:
    """Started new, and resumed after kill -9; the result is that of one alone."""
    arguments = (*command(ground, tmp_path / "run", "--save-steps", 1), "--resume")
    alone = command(ground, tmp_path / "alone", "--save-steps", 1)
    subprocess.run(program(*alone), check=True, capture_output=True, timeout=SECONDS)
    long = (*without("--max-steps", "--epochs"), *MANY)
    endless = ("finetune", ground / "out", "--data", ground / "data", "-o", tmp_path / "run", *long)
    killed = subprocess.Popen(program(*endless), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + SECONDS
    while not list((tmp_path / "run").glob("state-*")):
        assert killed.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    before = snapshot(tmp_path / "run" / "start")
    second = subprocess.run(
        program(*endless, "--resume"), capture_output=True, text=True, timeout=SECONDS
    )
    assert killed.poll() is None, "the first one was disturbed"
    killed.kill()
    killed.wait()
    assert second.returncode == DATA
    assert f"error[output-in-use]: another command is writing there: process {killed.pid} on" in (
        second.stderr
    )
    assert snapshot(tmp_path / "run" / "start") == before
    resumed = subprocess.Popen(program(*endless, "--resume"), stderr=subprocess.DEVNULL)
    newest = max((tmp_path / "run").glob("state-*"))
    while newest.exists():
        assert resumed.poll() is None, "a killed one holds nothing"
        time.sleep(0.05)
    resumed.terminate()
    assert resumed.wait(timeout=SECONDS) == 5
    shutil.rmtree(tmp_path / "run")
    for _ in range(3):
        racing = [
            subprocess.Popen(program(*arguments), stderr=subprocess.PIPE, text=True)
            for _ in range(3)
        ]
        told = [process.communicate(timeout=SECONDS)[1] for process in racing]
        for process, text in zip(racing, told, strict=True):
            assert process.returncode in (0, DATA), text
            assert process.returncode == 0 or "error[output-in-use]" in text
        assert 0 in [process.returncode for process in racing]
    assert contents(tmp_path / "run") == contents(tmp_path / "alone")
    assert {path.name for path in tmp_path.iterdir()} == {"alone", "run"}


def test_all_ranks_end_where_another_command_trains(ground: Path, tmp_path: Path) -> None:
    arguments = (*command(ground, tmp_path / "run", "--save-steps", 1), "--resume")
    with in_use(tmp_path / "run"):
        ended = subprocess.run(
            torchrun(*arguments), capture_output=True, text=True, timeout=SECONDS,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert not (tmp_path / "run").exists()
    assert ended.returncode != 0
    assert ended.stderr.count("error[output-in-use]") == 1, ended.stderr
    assert "scalenet_cli/" not in ended.stderr, "a traceback of ours"
