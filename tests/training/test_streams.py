"""A run outlives whoever reads what it says: a pipe, a terminal, a full disk, closed streams."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import pytest

from scalenet_cli import load
from scalenet_cli.cli.app import main
from scalenet_cli.cli.progress import TerminalReporter
from tests.training.children import Server
from tests.training.runs import HEAD_NOTE, RECIPE, metrics, slow

pytestmark = pytest.mark.skipif(os.name != "posix", reason="pipes and terminals of Unix")

STEPS = 4


def into_head() -> None:
    """``2>&1 | head -1``; what head prints goes to the log."""
    reading, writing = os.pipe()
    subprocess.Popen(["head", "-1"], stdin=reading, stdout=os.dup(1))
    os.close(reading)
    os.dup2(writing, 1)
    os.dup2(writing, 2)
    os.close(writing)


def into_a_full_disk() -> None:
    """``2> /full/disk``"""
    full = os.open("/dev/full", os.O_WRONLY)
    os.dup2(full, 2)


def closed() -> None:
    """``>&- 2>&-``"""
    os.close(1)
    os.close(2)


def onto_a_terminal() -> None:
    """One that is closed as soon as something is trained."""
    ours, terminal = pty.openpty()
    os.dup2(terminal, 1)
    os.dup2(terminal, 2)
    os.close(terminal)
    stepped = TerminalReporter.stepped

    def close_it(self: TerminalReporter, step: int, values: Mapping[str, float]) -> None:
        if step == 1:
            assert self._bar is not None
            os.close(ours)
        stepped(self, step, values)

    patch.object(TerminalReporter, "stepped", close_it).start()


def text_stream(descriptor: int) -> io.TextIOWrapper | None:
    """As Python makes one when it starts."""
    try:
        os.fstat(descriptor)
    except OSError:
        return None
    return io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(descriptor, "w", closefd=False)), line_buffering=True
    )


def command(how: str, bundle: Path, data: Path, run: Path) -> None:
    """The command line, with other streams than those of its parent."""
    globals()[how]()
    sys.stdout = sys.__stdout__ = text_stream(1)  # type: ignore[assignment, misc]
    sys.stderr = sys.__stderr__ = text_stream(2)  # type: ignore[assignment, misc]
    settings = {**RECIPE, "epochs": 1}
    sys.argv = [
        "scalenet", "finetune", str(bundle), "--data", str(data), "-o", str(run), "--device", "cpu",
        "--workers", "0" if how == "into_head" else "1",
        *(f"--set={key}={json.dumps(value)}" for key, value in settings.items()),
    ]  # fmt: skip
    with patch("scalenet_cli.commands.finetune.draw_curves"):
        main()


@pytest.mark.parametrize(
    "how", ["into_head", slow("into_a_full_disk"), slow("closed"), slow("onto_a_terminal")]
)
def test_a_run_goes_on_to_its_end(
    server: Server, bundle: Path, data: Path, tmp_path: Path, how: str
) -> None:
    run = tmp_path / "run"
    child = server.start(tmp_path / "log", command, how, bundle, data, run)
    assert child.wait() == 0, child.text()
    assert metrics(run)[-1]["step"] == STEPS
    load(run / "last")
    if how == "into_head":
        (line,) = child.text().splitlines()
        assert line.startswith(f"note: {HEAD_NOTE}")
    if how == "into_a_full_disk":
        assert f"{STEPS} steps" in child.text()
