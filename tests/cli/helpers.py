"""What a refusal looks like, and small files that provoke one."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Final

import pytest
import timm
import torch
from safetensors.torch import save_file
from typer.testing import Result

from scalenet_cli import SourceOptions, expand_checkpoint, load, verify
from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.errors import ScalenetError
from scalenet_cli.files.lock import sole_writer
from tests.conftest import PLAN
from tests.models import ARCHITECTURES, tiny_case

Run = Callable[..., Result]
Manifest = dict[str, Any]
Change = Callable[[Manifest], Any]
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
        assert words in result.stderr, f"{words!r} is missing in\n{result.stderr}"
    assert snapshot(folder) == before, "files were left behind or changed"
    return result.stderr


def assert_refusal(found: int, stdout: str, stderr: str, *, status: int, code: str) -> None:
    """Exit status, error code, and a message that keeps its shape and its terminal."""
    assert "Traceback" not in stderr, stderr
    assert f"error[{code}]: " in stderr, f"not error[{code}], but status {found} and\n{stderr}"
    assert found == status, f"status {found}, not {status}, and\n{stderr}"
    assert stdout == "", stdout
    for line in stderr.splitlines():
        assert line.startswith(LINES), f"a line of no known kind: {line!r}"
        assert line.isprintable(), f"control characters reach the terminal: {line!r}"
        assert len(line) < 2000


def short(value: object) -> str:
    """A name for a parameter that is a long text or a function: its end."""
    name = value.__name__ if isinstance(value, FunctionType) else repr(value)
    return name[-40:]


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


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Another command is writing to the folder: here, another thread."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with sole_writer(folder):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(10)
    try:
        yield
    finally:
        done.set()
        thread.join()


def child(
    *arguments: object, prelude: str = "", timeout: float = 60
) -> "subprocess.CompletedProcess[str]":
    """The command line in a process of its own, after a prelude such as a resource limit."""
    command = child_command(*arguments, prelude=prelude)
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


def child_command(*arguments: object, prelude: str = "") -> list[str]:
    """What ``child`` runs, for tests that stop it on the way."""
    return [sys.executable, "-c", prelude + _START, *map(str, arguments)]


@cache
def tensors_of(name: str) -> Mapping[str, torch.Tensor]:
    """The state dict of a tiny case as its author would publish it: a tied head is left out."""
    state = tiny_case(name).model.state_dict()
    return {key: state[key] for key in _first_keys(state)}


def _first_keys(state: Mapping[str, torch.Tensor]) -> list[str]:
    first: dict[int, str] = {}
    for key, tensor in state.items():
        first.setdefault(tensor.data_ptr(), key)
    return list(first.values())


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


def blank_timm(path: Path, name: str) -> Path:
    """A timm checkpoint at full size without content: zeros that take no room on the disk."""
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    header, at = {}, 0
    for key, tensor in state.items():
        end = at + tensor.numel() * 4
        header[key] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, end]}
        at = end
    write_safetensors(path, header)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + at)
    return path


def read_header(path: Path) -> tuple[dict[str, Any], bytes]:
    """Header and data of a well-formed safetensors file."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:start]), content[start:]


def refuse_checkpoint(
    run: Run,
    folder: Path,
    checkpoint: object,
    code: str,
    *says: str,
    options: tuple[str, ...] = (),
    status: int = DATA,
) -> str:
    """`expand`, with and without --dry-run, and `inspect` refuse a checkpoint in the same words."""
    plan = folder / "plan.yaml"
    plan.write_text(PLAN)
    expand = ("expand", checkpoint, "--plan", plan, "-o", folder / "out", *options)
    message = refuse(run, folder, *expand, status=status, code=code, says=says)
    for again in ((*expand, "--dry-run"), ("inspect", checkpoint, *options)):
        told = refuse(run, folder, *again, status=status, code=code)
        assert told == message, f"{again[0]}: {told}\nexpand: {message}"
    return message


def write_bundle(folder: Path, name: str = "vit", plan: str = PLAN) -> Path:
    """A bundle of a tiny model, in ``folder / "out"``; its checkpoint is beside it."""
    (folder / "plan.yaml").write_text(plan)
    checkpoint, options = folder / f"{name}.safetensors", SourceOptions()
    if name == "vit":
        save_file(dict(tensors_of(name)), checkpoint)
        options = SourceOptions(model_kwargs={"num_heads": 2})
    else:
        checkpoint = write_decoder(folder / name, name)
    expand_checkpoint(str(checkpoint), str(folder / "plan.yaml"), folder / "out", options=options)
    return folder / "out"


def set_entry(*path: str | int, value: object) -> Change:
    """A change of one entry of a manifest."""

    def change(manifest: Manifest) -> None:
        entry: Any = manifest
        for part in path[:-1]:
            entry = entry[part]
        entry[path[-1]] = value

    change.__name__ = f"{'.'.join(map(str, path))}={value!r}"
    return change


def change_manifest(bundle: Path, change: Change, *, sealed: bool = True) -> None:
    """Lets a function edit the manifest in place; ``sealed`` as one who knows of its digest."""
    manifest = json.loads((bundle / "manifest.json").read_text())
    change(manifest)
    if sealed:
        manifest["digest"] = digest_content(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))


def refuse_bundle(run: Run, bundle: Path, code: str, *says: str) -> str:
    """`verify` and `load` refuse a bundle in the same words and leave it as it is."""
    message = refuse(run, bundle, "verify", bundle, status=DATA, code=code, says=says)
    with pytest.raises(ScalenetError) as raised:
        load(bundle)
    assert f"{raised.value}\n" == message, f"load: {raised.value}\nverify: {message}"
    assert raised.value.exit_code == DATA
    return message


def refused_or_whole(checkpoint: Path, folder: Path, **model_kwargs: object) -> None:
    """Either `expand` refuses a checkpoint, in time and cleanly, or its bundle holds."""
    plan, output = folder / "plan.yaml", folder / "out"
    plan.write_text(PLAN)
    options = SourceOptions(model_kwargs=model_kwargs)
    started = time.process_time()
    refusal = None
    try:
        expand_checkpoint(str(checkpoint), str(plan), output, options=options)
    except ScalenetError as error:
        refusal = error
    assert time.process_time() - started < 5
    assert list(folder.glob(".out.*")) == []
    if refusal is None:
        verify(output, source=str(checkpoint), options=options)
        shutil.rmtree(output)
    else:
        assert refusal.exit_code == DATA
        assert all(line.isprintable() for line in str(refusal).splitlines())
        assert not output.exists()
