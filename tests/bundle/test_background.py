"""Copying beside the main thread: in processes and in threads, and what ends them."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scalenet_cli.bundle.background import background_writer
from scalenet_cli.bundle.tensor_files import base_files
from scalenet_cli.families.sources import open_source
from tests.models import tiny_case

SECONDS = 120
# A process of its own: pytest's has torch, and must not be forked.
SCRIPT = """
import json, os, sys, threading, time
from pathlib import Path
from scalenet_cli.bundle import background
from scalenet_cli.bundle.tensor_files import TensorFile
from scalenet_cli.errors import ScalenetError
from scalenet_cli.families.sources.tensors import FileTensor, TensorSpec

background._WORTH_A_PROCESS_BYTES = int(sys.argv[3])
os.cpu_count = lambda: 4
source, out = Path(sys.argv[1]), Path(sys.argv[2])
files = []
for path in sorted(source.iterdir()):
    size = path.stat().st_size
    files.append(TensorFile(path.name, {"bytes": FileTensor(TensorSpec("U8", (size,)), path, 0)}))
%s
"""
COPY = """
with background.background_writer(out, "base", files) as writer:
    kind = type(writer).__name__
    entries = writer.entries()
print(json.dumps([kind, {k: e.tensors["bytes"].sha256 for k, e in sorted(entries.items())}]))
"""


def script(body: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", SCRIPT % body, *map(str, arguments)]


def run(body: str, *arguments: object) -> Any:
    ended = subprocess.run(
        script(body, *arguments), capture_output=True, text=True, timeout=SECONDS
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    return json.loads(ended.stdout)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for index, size in enumerate((1, 300_000, 2_000_000, 1_500_000, 7)):
        (folder / f"{index}.bin").write_bytes(os.urandom(size))
    (tmp_path / "out").mkdir()
    return folder


def written(out: Path) -> dict[str, bytes]:
    """What follows the header of each file."""
    bodies = {}
    for path in sorted(out.iterdir()):
        data = path.read_bytes()
        bodies[path.name] = data[8 + int.from_bytes(data[:8], "little") :]
    return bodies


def test_processes_and_threads_write_the_same(source: Path, tmp_path: Path) -> None:
    expected = {path.name: path.read_bytes() for path in sorted(source.iterdir())}
    kind, digests = run(COPY, source, tmp_path / "out", 0)
    assert kind == "_WritingProcesses"
    assert written(tmp_path / "out") == expected
    (tmp_path / "again").mkdir()
    assert run(COPY, source, tmp_path / "again", 10**9) == ["_WritingThreads", digests]
    assert written(tmp_path / "again") == expected


@pytest.mark.parametrize(
    "unsafe",
    [
        pytest.param("import torch", marks=pytest.mark.slow),
        "threading.Thread(target=time.sleep, args=(60,), daemon=True).start()",
        "import multiprocessing; multiprocessing.current_process()._config['daemon'] = True",
    ],
)
def test_where_a_fork_is_not_safe_there_is_none(source: Path, tmp_path: Path, unsafe: str) -> None:
    kind, _ = run(f"{unsafe}\n{COPY}", source, tmp_path / "out", 0)
    assert kind == "_WritingThreads"


FAILING = """
files[2] = TensorFile(
    files[2].name, {"bytes": FileTensor(TensorSpec("U8", (10**9,)), source / files[2].name, 0)}
)
try:
    with background.background_writer(out, "base", files) as writer:
        writer.entries()
except %s as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def test_a_workers_failure_is_raised_here(source: Path, tmp_path: Path) -> None:
    name, text = run(FAILING % "ScalenetError", source, tmp_path / "out", 0)
    assert name == "CheckpointIncomplete"
    assert f"where: {source / '2.bin'}" in text
    name, text = run(FAILING % "OSError", source, tmp_path / "none", 0)
    assert name == "FileNotFoundError"
    assert str(tmp_path / "none") in text


KILLED = """
import signal
def children():
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
os.mkfifo(out / "never")
endless = FileTensor(TensorSpec("U8", (10**9,)), out / "never", 0)
files.append(TensorFile("endless", {"bytes": endless}))
"""


def test_a_worker_that_is_killed_is_reported(source: Path, tmp_path: Path) -> None:
    body = KILLED + (
        "try:\n"
        "    with background.background_writer(out, 'base', files) as writer:\n"
        "        for pid in children(): os.kill(pid, signal.SIGKILL)\n"
        "        writer.entries()\n"
        "except ScalenetError as error:\n"
        "    print(json.dumps([str(error), children()]))\n"
    )
    text, left = run(body, source, tmp_path / "out", 0)
    assert "error[system]" in text
    assert "ended from outside" in text
    assert left == []


def test_leaving_the_block_ends_the_workers(source: Path, tmp_path: Path) -> None:
    body = KILLED + (
        "with background.background_writer(out, 'base', files) as writer:\n"
        "    inside = len(children())\n"
        "print(json.dumps([inside, len(children())]))\n"
    )
    inside, after = run(body, source, tmp_path / "out", 0)
    assert (inside > 0, after) == (True, 0)


def test_a_fork_that_the_system_refuses_is_told(source: Path, tmp_path: Path) -> None:
    body = KILLED + (
        "fork, forks = os.fork, []\n"
        "def refused():\n"
        "    if forks:\n"
        "        raise BlockingIOError(11, 'Resource temporarily unavailable')\n"
        "    forks.append(fork())\n"
        "    return forks[0]\n"
        "os.fork = refused\n"
        "try:\n"
        "    with background.background_writer(out, 'base', files) as writer:\n"
        "        pass\n"
        "except ScalenetError as error:\n"
        "    print(json.dumps([str(error), len(forks), children()]))\n"
    )
    text, forks, left = run(body, source, tmp_path / "out", 0)
    assert "no process can be started" in text
    assert "Resource temporarily unavailable" in text
    assert (forks, left) == (1, [])


@pytest.mark.sample(2)
@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_in_a_fork_leaves_no_worker(source: Path, tmp_path: Path, number: str) -> None:
    body = KILLED + (
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "fork, forks = os.fork, []\n"
        "def interrupted():\n"
        "    pid = fork()\n"
        "    forks.append(pid)\n"
        "    if len(forks) == 2:\n"
        f"        os.kill(os.getpid(), signal.{number})  # in both processes\n"
        "        time.sleep(0.2)\n"
        "    return pid\n"
        "os.fork = interrupted\n"
        "try:\n"
        "    with background.background_writer(out, 'base', files * 2) as writer:\n"
        "        pass\n"
        "    found = 'nothing'\n"
        "except KeyboardInterrupt:\n"
        "    found = 'interrupted'\n"
        "print(json.dumps([found, len(forks), children()]))\n"
    )
    assert run(body, source, tmp_path / "out", 0) == ["interrupted", 2, []]


def test_workers_end_with_a_parent_that_is_killed(source: Path, tmp_path: Path) -> None:
    body = KILLED + (
        "with background.background_writer(out, 'base', files) as writer:\n"
        "    print(json.dumps(children()), flush=True)\n"
        "    writer.entries()\n"
    )
    process = subprocess.Popen(
        script(body, source, tmp_path / "out", 0), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workers = json.loads(process.stdout.readline())
    assert workers
    time.sleep(0.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    end = time.monotonic() + SECONDS
    while alive(workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(workers: Sequence[int]) -> list[int]:
    """Those that still run; a zombie, whose new parent has not asked for it yet, does not."""
    found = []
    for pid in workers:
        stat = Path(f"/proc/{pid}/stat")
        try:
            if stat.read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


def test_tensors_in_memory_are_written_by_threads(tmp_path: Path) -> None:
    case = tiny_case("vit")
    path = tmp_path / "model.pth"
    torch.save(case.model.state_dict(), path)
    source = open_source(
        str(path), arch=case.architecture.name, arguments=case.architecture.arguments,
        weights=True, random_seed=None,
    )  # fmt: skip
    with background_writer(tmp_path, "base", base_files(source)) as writer:
        assert set(writer.entries()) == {"model.safetensors"}
    found = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(found[key], value) for key, value in case.model.state_dict().items())
