"""What a refusal looks like, and small files that provoke one."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from typer.testing import Result

from tests.models import ARCHITECTURES, tiny_case

Run = Callable[..., Result]
USAGE: Final = 2
DATA: Final = 3
THRESHOLD: Final = 4
LINES: Final = ("error[", "  where: ", "  hint:  ", "note: ")

# Put before a child's own work: root obeys permission bits like anybody else.
WITHOUT_ROOTS_RIGHTS: Final = """
import ctypes, sys
if sys.platform == "linux":
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP
"""
_START: Final = """
import os, sys
os.execv(sys.executable, [sys.executable, "-m", "scalenet_cli", *sys.argv[1:]])
"""


def refuse(
    run: Run, folder: Path, *arguments: object, status: int, code: str, says: tuple[str, ...] = ()
) -> str:
    """Runs a command that must fail with one clear error and leave ``folder`` as it was.

    Returns the message.
    """
    before = snapshot(folder)
    result = run(*arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise AssertionError(f"a traceback: {result.exception!r}") from result.exception
    assert_refusal(result.exit_code, result.stdout, result.stderr, status=status, code=code)
    for words in says:
        assert words in result.stderr
    assert snapshot(folder) == before
    return result.stderr


def assert_refusal(found: int, stdout: str, stderr: str, *, status: int, code: str) -> None:
    """Exit status, error code, and a message that keeps its shape and its terminal."""
    assert "Traceback" not in stderr
    assert f"error[{code}]: " in stderr
    assert found == status
    assert stdout == ""
    for line in stderr.splitlines():
        assert line.startswith(LINES), f"a line of no known kind: {line!r}"
        assert line.isprintable(), f"control characters reach the terminal: {line!r}"
        assert len(line) < 2000


def short(value: object) -> str:
    """A name for a parameter that is a long text: its end."""
    return repr(value)[-32:]


def snapshot(folder: Path) -> dict[str, object]:
    """Every file, folder and link below a folder, with its content."""
    return {
        str(path.relative_to(folder)): path.readlink()
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else "folder"
        for path in sorted(folder.rglob("*"))
    }


def child(*arguments: object, prelude: str = "") -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own, after a prelude such as a resource limit."""
    return subprocess.run(
        child_command(*arguments, prelude=prelude), capture_output=True, text=True, timeout=60
    )


def child_command(*arguments: object, prelude: str = "") -> list[str]:
    """What ``child`` runs, for tests that stop it on the way."""
    return [sys.executable, "-c", prelude + _START, *map(str, arguments)]


@cache
def tensors_of(name: str) -> Mapping[str, torch.Tensor]:
    """The state dict of a tiny case, as its author would publish it."""
    return dict(tiny_case(name).model.state_dict())


def write_decoder(
    folder: Path,
    name: str = "llama",
    *,
    config: Mapping[str, Any] | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """A Hugging Face folder; ``config`` changes entries of its config.json (None removes one)."""
    folder.mkdir(exist_ok=True)
    entries = {**ARCHITECTURES[name].arguments, **(config or {})}
    kept = {key: value for key, value in entries.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    save_file(dict(tensors or tensors_of(name)), folder / "model.safetensors")
    return folder


def write_safetensors(
    path: Path, header: Mapping[str, Any] | bytes, data: bytes = b"", length: int | None = None
) -> Path:
    """A safetensors file whose header says what it is told to say."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    count = len(raw) if length is None else length
    path.write_bytes(count.to_bytes(8, "little") + raw + data)
    return path


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a well-formed safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]
