"""``scalenet eval`` on several processes: the numbers of one, printed and told once."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, PartialState
from typer.testing import CliRunner, Result

from scalenet_cli.cli.app import app
from tests.images import OPTIONS, write_classifier, write_images, write_tar

Run = Callable[..., Result]
# The one of Python 3.12, which warns of forks where there are threads.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def be_a_rank(rank: int, port: int, folder: Path, arguments: list[str]) -> None:
    """One of two processes, as a launcher would start it; what it prints goes to files."""
    PartialState._reset_state()
    AcceleratorState._reset_state()
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ |= {name: str(value) for name, value in names.items()}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    result = CliRunner().invoke(app, arguments)
    (folder / f"rank{rank}.out").write_text(result.stdout)
    (folder / f"rank{rank}.err").write_text(result.stderr + repr(result.exception))
    os._exit(result.exit_code)


def run_two_ranks(folder: Path, *arguments: object) -> list[tuple[int | None, str, str]]:
    """Exit status, stdout and stderr of both; ``{rank}`` in an argument is the rank's number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Forked, because importing torch twice more takes as long as all other tests here.
    context = multiprocessing.get_context("fork")
    words = [str(argument) for argument in arguments]
    ranks = [
        context.Process(
            target=be_a_rank,
            args=(n, port, folder, [word.replace("{rank}", str(n)) for word in words]),
        )
        for n in range(2)
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        rank.kill()
    return [
        (rank.exitcode, *((folder / f"rank{n}.{kind}").read_text() for kind in ("out", "err")))
        for n, rank in enumerate(ranks)
    ]


def test_two_ranks_count_as_one_process(run: Run, tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    data = write_tar(tmp_path / "val.tar", write_images(tmp_path / "val", "abcde", 23))
    files = [tmp_path / name for name in ("1.csv", "2.csv", "1.json", "2.json")]
    arguments = [checkpoint, "--data", data, "--batch-size", 3, "--device", "cpu", *OPTIONS["vit"]]
    written = ("--predictions", files[0], "--confusion", files[2], "--workers", 0)
    one = json.loads(run("eval", *arguments, *written, "--json").stdout)
    written = ("--predictions", files[1], "--confusion", files[3], "--fail-under", "loss=0.001")
    main, other = run_two_ranks(tmp_path, "eval", *arguments, *written, "--json", "--workers", 0)
    assert (main[0], other[:2]) == (4, (0, "")), main[2] + other[2]
    assert main[2].count("note: not in timm's registry") == 1
    assert "note" not in other[2]
    two = json.loads(main[1])
    assert (one.pop("num_processes"), two.pop("num_processes")) == (1, 2)
    for name in ("seconds", "images_per_second", "files"):
        one.pop(name), two.pop(name)
    assert one.pop("loss") == pytest.approx(two.pop("loss"), rel=1e-12)
    assert one == two
    assert files[2].read_text() == files[3].read_text()
    names = [[line.split(",")[:6] for line in file.read_text().split("\n")] for file in files[:2]]
    assert names[0] == names[1]


def test_more_ranks_than_samples(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 5)
    arguments = ("eval", checkpoint, "--data", tmp_path, *OPTIONS["vit"], "--limit", 1, "--json")
    (status, stdout, errors), other = run_two_ranks(tmp_path, *arguments)
    assert (status, other[0]) == (0, 0), errors + other[2]
    assert json.loads(stdout)["num_images"] == 1


def test_what_all_ranks_find_is_told_once(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcd", 5)
    main, other = run_two_ranks(tmp_path, "eval", checkpoint, "--data", tmp_path, *OPTIONS["vit"])
    assert main[:2] == other[:2] == (3, "")
    assert "error[classes-differ]" in main[2]
    assert "error[" not in other[2]


def test_ranks_with_other_images_are_noticed(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    for rank in range(2):
        write_images(tmp_path / f"data{rank}" / "val", "abcde", 5 + rank)
    arguments = ("eval", checkpoint, "--data", tmp_path / "data{rank}", *OPTIONS["vit"])
    main, other = run_two_ranks(tmp_path, *arguments)
    assert main[:2] == other[:2] == (2, "")
    assert "error[ranks-differ]: rank 1 has data " in main[2]
    assert "rank 1 has samples 6, rank 0 5" in main[2]
    assert "error[" not in other[2]


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 23)
    ranks = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    command = [sys.executable, *ranks, "-m", "scalenet_cli", "eval", checkpoint, "--json"]
    command += ["--data", tmp_path, *OPTIONS["vit"], "--batch-size", 3, "--workers", 1]
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=120, check=True
    )
    report = json.loads(result.stdout)  # printed once
    assert (report["num_images"], report["num_processes"]) == (23, 2)
