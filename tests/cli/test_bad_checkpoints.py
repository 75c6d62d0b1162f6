"""Files that are no checkpoint, are damaged, or would run code."""

import os
import pickle
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.cli.helpers import DATA, Run, child, refuse_checkpoint, tensors_of
from tests.conftest import VIT_OPTIONS

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x02\x00\x00\x00"
RANDOM = random.Random(0).randbytes(4096)


@pytest.mark.sample(4)
@pytest.mark.parametrize("suffix", [".pth", ".bin", ".ckpt", ""])
@pytest.mark.parametrize(
    "content", [b"", b"not a checkpoint\n", PNG, RANDOM], ids=["empty", "text", "png", "random"]
)
def test_a_file_that_is_no_checkpoint(
    run: Run, tmp_path: Path, suffix: str, content: bytes
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(content)
    refuse_checkpoint(run, tmp_path, path, "checkpoint-unreadable", f"where: {path}", "hint:")


@pytest.mark.parametrize("name", ["missing.pth", "missing.safetensors", "missing", "a/b.pth"])
def test_a_checkpoint_that_is_not_there(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    refuse_checkpoint(run, tmp_path, path, "checkpoint-not-found", f"where: {path}", "timm:NAME")


def test_a_path_below_a_file_and_a_name_too_long_for_a_file(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    refuse_checkpoint(run, tmp_path, tmp_path / "file" / "weights.pth", "checkpoint-not-found")
    refuse_checkpoint(run, tmp_path, "x" * 1000, "checkpoint-not-found")


@pytest.mark.parametrize("name", ["nowhere.pth", "loop.pth"])
def test_a_link_that_leads_nowhere(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "nowhere.pth").symlink_to("gone.pth")
    (tmp_path / "loop.pth").symlink_to("loop.pth")
    refuse_checkpoint(run, tmp_path, tmp_path / name, "checkpoint-not-found", name)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "folder"])
def test_a_folder_without_config(run: Run, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    (path / "model.safetensors").write_bytes(RANDOM)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-not-found", "no config.json", f"where: {path}", "hint:"
    )


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_a_pipe_is_no_checkpoint_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\n")
    try:
        ended = child("expand", tmp_path / name, "--plan", plan, "-o", tmp_path / "out", timeout=10)
    except subprocess.TimeoutExpired:
        pytest.fail("it waits for somebody to write into the pipe")
    assert ended.returncode == DATA
    assert "error[checkpoint-" in ended.stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("kept", [1, 5, 64, 0.3, 0.9, -1])
def test_a_truncated_pickle(run: Run, tmp_path: Path, legacy: bool, kept: float) -> None:
    path = tmp_path / "vit.pth"
    torch.save(dict(tensors_of("vit")), path, _use_new_zipfile_serialization=not legacy)
    size = path.stat().st_size
    os.truncate(path, round(size * kept) if 0 < kept < 1 else (size + int(kept)) % size)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-unreadable", f"where: {path}", "hint:",
        options=VIT_OPTIONS,
    )  # fmt: skip


class Command:
    """Runs a shell command when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: object) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


def _commands(mark: Path) -> list[Command]:
    touch = f"touch {mark}"
    code = f"open({str(mark)!r}, 'w').close()"
    return [
        Command(os.system, touch),
        Command(subprocess.run, ["touch", str(mark)]),
        Command(eval, code),
        Command(exec, code),
        Command(Path.touch, mark),
        Command(getattr, Path(mark), "name"),
        Command(torch.hub.load, str(mark.parent), "x"),
        Command(pickle.loads, pickle.dumps(Command(os.system, touch))),
        Command(torch.load, str(mark)),
    ]


@pytest.mark.sample(4)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("order", range(9))
def test_a_pickle_with_code_is_refused_and_its_code_does_not_run(
    run: Run, tmp_path: Path, legacy: bool, order: int
) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / "vit.pth"
    content = {"model": dict(tensors_of("vit")), "epoch": _commands(mark)[order]}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-unsafe", f"where: {path}", "save_file",
        options=VIT_OPTIONS,
    )  # fmt: skip
    assert not mark.exists()


def test_a_bare_pickle_with_code_is_refused(run: Run, tmp_path: Path) -> None:
    mark = tmp_path / "it-ran"
    path = tmp_path / "vit.pkl"
    path.write_bytes(pickle.dumps(Command(os.system, f"touch {mark}")))
    refuse_checkpoint(run, tmp_path, path, "checkpoint-unsafe", f"where: {path}", "save_file")
    assert not mark.exists()


def test_a_whole_pickled_model_is_refused_with_a_way_to_convert_it(
    run: Run, tmp_path: Path
) -> None:
    path = tmp_path / "model.pth"
    torch.save(nn.Sequential(nn.Linear(2, 2)), path)
    refuse_checkpoint(run, tmp_path, path, "checkpoint-unsafe", "state_dict()", "save_file")
