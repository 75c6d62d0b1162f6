"""A run that is killed anywhere and resumed ends as if nothing had happened, byte for byte."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.training.children import Server
from tests.training.runs import (
    PLAIN,
    RECIPE,
    InterruptAt,
    Interrupted,
    contents,
    metrics,
    slow,
    train,
)

# Checkpoints in mid-epoch, evaluations, an average, accumulation: all that has to be restored.
FULL = {**RECIPE, "ema_decay": 0.9, "save_steps": 3, "accumulate": 2, "eval_epochs": 2}


def train_and_count(
    bundle: Path, data: Path, run: Path, recipe: dict[str, Any], *, kill_at: int = -1, **more: Any
) -> None:
    """A run whose process group is killed where it touches the run's folder for the n-th time.

    Python reports every file that is opened, linked, renamed or removed: all moments of a
    checkpoint, and every line of metrics. The number of them is written to ``run.events``.
    """
    seen = 0
    main = os.getpid()
    place = str(run)

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in _FILE_EVENTS or os.getpid() != main:
            return
        if any(str(one).startswith(place) for one in arguments if isinstance(one, (str, Path))):
            seen += 1
            if seen == kill_at:
                os.killpg(0, signal.SIGKILL)

    sys.addaudithook(count)
    train(bundle, data, run, recipe, **more)
    run.with_suffix(".events").write_text(str(seen))


_FILE_EVENTS = {
    "open", "os.link", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.chmod",
    "os.truncate", "shutil.rmtree", "tempfile.mkdtemp",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(
    server: Server, bundle: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    child = server.start(
        folder / "log", train_and_count, bundle, data, folder / "run", FULL, workers=1
    )
    assert child.wait() == 0, child.text()
    return folder / "run"


def assert_killed_runs_repeat(
    server: Server, bundle: Path, data: Path, folder: Path, whole: Path, *, kills: int, seed: int
) -> None:
    """So many kills at random moments; then every file is that of the run without."""
    total = int(whole.with_suffix(".events").read_text())
    chooser, done, runs = random.Random(seed), 0, 0
    while done < kills:
        at = chooser.randint(1, max(total // 4, 1))
        run = folder / f"run{runs}"
        child = server.start(
            folder / "log", train_and_count, bundle, data, run, FULL,
            kill_at=at, workers=1, resume=True,
        )  # fmt: skip
        status = child.wait()
        assert status in (0, -signal.SIGKILL), child.text()
        if status == 0:  # so far that it could end; the rest of the kills is for another run
            assert contents(run) == contents(whole)
            runs += 1
        else:
            done += 1
    child = server.start(folder / "log", train, bundle, data, run, FULL, workers=1, resume=True)
    assert child.wait() == 0, child.text()
    assert contents(run) == contents(whole)
    assert "top1" in metrics(run)[-1]


def test_run_killed_at_random_moments_repeats(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path
) -> None:
    assert_killed_runs_repeat(server, bundle, data, tmp_path, whole, kills=3, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_run_killed_20_times_at_random_moments_repeats(
    server: Server, bundle: Path, data: Path, tmp_path: Path, whole: Path, seed: int
) -> None:
    assert_killed_runs_repeat(server, bundle, data, tmp_path, whole, kills=20, seed=seed)


SLOW = ["adamw", "sgd", "adam", "momentum", "lion", "nadamw", "adafactor", "muon"]


@pytest.mark.parametrize("opt", ["adan", *map(slow, ("lamb", *SLOW))])
def test_every_optimizer_is_resumed(bundle: Path, data: Path, tmp_path: Path, opt: str) -> None:
    recipe = {**PLAIN, "opt": opt, "max_steps": 5, "save_steps": 2, "eval_steps": 5}
    train(bundle, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(bundle, data, tmp_path / "run", recipe, reporter=InterruptAt(4))
    train(bundle, data, tmp_path / "run", recipe, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_fp16_scale_is_resumed(bundle: Path, data: Path, tmp_path: Path) -> None:
    recipe = {**PLAIN, "precision": "fp16", "max_steps": 5, "save_steps": 2, "eval_steps": 5}
    train(bundle, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(bundle, data, tmp_path / "run", recipe, reporter=InterruptAt(4))
    train(bundle, data, tmp_path / "run", recipe, resume=True)
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_subprocess_killed_at_random_times_repeats(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    """Real processes, killed by the clock after their first line of metrics."""
    settings = [f"--set={key}={json.dumps(value)}" for key, value in FULL.items()]
    command = [
        sys.executable, "-m", "scalenet_cli", "finetune", str(bundle), "--data", str(data),
        "--device", "cpu", "--workers", "2", *settings,
    ]  # fmt: skip
    subprocess.run([*command, "-o", str(tmp_path / "whole")], check=True)
    chooser = random.Random(3)
    kills, run = 0, tmp_path / "run"
    while kills < 4:
        size = (run / "metrics.jsonl").stat().st_size if run.exists() else 0
        process = subprocess.Popen([*command, "-o", str(run), "--resume"], start_new_session=True)
        _wait_for_new_lines(process, run, size)
        time.sleep(chooser.random() / 4)
        os.killpg(process.pid, signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        if process.returncode == 0:
            break
    subprocess.run([*command, "-o", str(run), "--resume"], check=True)
    assert contents(run) == contents(tmp_path / "whole")


def _wait_for_new_lines(process: "subprocess.Popen[bytes]", run: Path, size: int) -> None:
    until = time.monotonic() + 120
    while process.poll() is None:
        with contextlib.suppress(OSError):
            if (run / "metrics.jsonl").stat().st_size > size:
                return
        assert time.monotonic() < until
        time.sleep(0.01)
