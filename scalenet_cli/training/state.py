"""The training state: everything that a resumed run needs beside the bundle it started from."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open

from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.bundle.tensor_files import TensorFile, write_file
from scalenet_cli.errors import RunStateDamaged
from scalenet_cli.families.sources.tensors import hold
from scalenet_cli.files.durable import fsync_path
from scalenet_cli.files.staged_folder import require_writable_parent, staged_folder
from scalenet_cli.plan.schema import Strict
from scalenet_cli.training.parallel import gathered, like

TENSORS: Final = "tensors.safetensors"
RECORD: Final = "state.json"
_NAME: Final = re.compile(r"state-(\d{9,})")
# Names of skipped samples are most of it: half a million of them.
_MAX_RECORD_BYTES: Final = 50_000_000


class Progress(Strict):
    """Where a run is. Python writes a float so that the same float is read back."""

    step: int = Field(0, ge=0, description="optimizer steps done")
    metrics_bytes: int = Field(0, ge=0, description="of metrics.jsonl that belong to them")
    metrics_sha256: str | None = Field(None, description="of these bytes")
    bundles: dict[str, str] = Field(
        default_factory=dict, description="digests of the manifests of last/ and best/"
    )
    loss_sum: float = Field(0.0, description="of the steps since the last evaluation")
    loss_steps: int = Field(0, ge=0)
    best_step: int | None = None
    best: float | None = Field(None, description="the task's metric, of the best bundle")
    before: float | None = Field(None, description="the metric before training")
    num_averaged: int = Field(0, ge=0)
    scaler: dict[str, float] = Field(default_factory=dict)
    skipped: tuple[str, ...] = Field((), description="samples that were left out")


class _Record(Strict):
    """What is in state.json. Earlier versions wrote no digest of it."""

    progress: Progress
    numbers: dict[str, dict[str, float]] = Field(description="optimizer state that is no tensor")
    sha256: str = Field(description="of the file of tensors")
    digest: str | None = Field(None, description="of all the rest, see digest_content")


@final
@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state of one step. ``sealed`` says that a digest covers all of it."""

    progress: Progress
    tensors: dict[str, torch.Tensor]
    numbers: dict[str, dict[str, float]]
    sealed: bool


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trained: dict[str, torch.nn.Parameter], *, keep: bool
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, float]]]:
    """Every tensor and every number of the optimizer's state, by the key of its parameter."""
    tensors: dict[str, torch.Tensor] = {}
    numbers: dict[str, dict[str, float]] = {}
    for key, parameter in trained.items():
        for name, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                tensors[f"optimizer/{key}/{name}"] = value
            elif value is not None:
                numbers.setdefault(key, {})[name] = value
    for order, group in enumerate(optimizer.param_groups):
        if "step" in group:  # of timm's LAMB and Adan, which count once for all
            numbers[f"group {order}"] = {"step": float(group["step"])}
    return gathered(tensors, keep=keep), numbers


def restore_optimizer(
    optimizer: torch.optim.Optimizer,
    trained: dict[str, torch.nn.Parameter],
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, dict[str, float]],
) -> None:
    """Gives the optimizer the state that :func:`optimizer_tensors` took."""
    state: dict[str, dict[str, Any]] = {key: dict(found) for key, found in numbers.items()}
    for path, tensor in tensors.items():
        kind, _, rest = path.partition("/")
        key, _, name = rest.rpartition("/")
        if kind == "optimizer" and key in trained:
            same_shape = tensor.shape == trained[key].shape
            state.setdefault(key, {})[name] = like(tensor, trained[key]) if same_shape else tensor
    keys = {id(parameter): key for key, parameter in trained.items()}
    current = optimizer.state_dict()
    order = [p for group in optimizer.param_groups for p in group["params"]]
    current["state"] = {
        number: state[keys[id(parameter)]]
        for number, parameter in enumerate(order)
        if keys[id(parameter)] in state
    }
    for number, group in enumerate(current["param_groups"]):
        if f"group {number}" in numbers:
            group["step"] = int(numbers[f"group {number}"]["step"])
    optimizer.load_state_dict(current)


def check_tensors(
    found: Mapping[str, torch.Tensor],
    trained: Mapping[str, torch.Tensor],
    *,
    averaged: bool,
    mixed: bool,
) -> None:
    """A state's tensors are those of this model; their digest says nothing about that.

    ``mixed`` optimizers keep other tensors of one parameter than of another.

    Raises:
        ValueError: names the first that is not.
    """
    kinds = ("model", "average") if averaged else ("model",)
    expected = {f"{kind}/{key}": tensor for kind in kinds for key, tensor in trained.items()}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ValueError(f"it has no {missing[0]}")
    names: dict[str, set[str]] = {}
    for path, tensor in found.items():
        key, _, name = path.removeprefix("optimizer/").rpartition("/")
        if path not in expected:
            names.setdefault(key, set()).add(name)
        like = trained.get(key) if path.startswith("optimizer/") else expected.get(path)
        if like is None:
            raise ValueError(f"{path} is of no trained tensor")
        small = path not in expected and (mixed or tensor.numel() == 1)
        if not small and tensor.shape != like.shape:
            raise ValueError(f"{path} has the shape {list(tensor.shape)}, not {list(like.shape)}")
        if path in expected and tensor.dtype != like.dtype:
            raise ValueError(f"{path} is {tensor.dtype}, not {like.dtype}")
    every = set().union(*names.values())
    for key, own in names.items():
        if own != every and not mixed:
            raise ValueError(f"it has no optimizer/{key}/{min(every - own)}")


def damaged(folder: Path, error: Exception) -> RunStateDamaged:
    """What to raise of a state that cannot be used."""
    facts = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        facts = f"{RECORD}: {'.'.join(map(str, first['loc']))} {first['msg']}"
    elif isinstance(error, OSError) and error.filename:
        facts = f"{Path(error.filename).name}: {error.strerror}"
    return RunStateDamaged(
        f"the training state cannot be used: {facts}",
        where=str(folder),
        hint="start the run anew in another folder; last/ and best/ are bundles of their own",
    )


def write_state(
    run: Path,
    progress: Progress,
    tensors: dict[str, torch.Tensor],
    numbers: dict[str, dict[str, float]],
) -> None:
    """Writes the state of one step, whole or not at all; only then are older ones removed.

    Raises:
        OutputUnwritable: a full disk, for instance; the older state stays.
    """
    target = run / f"state-{progress.step:09d}"
    if target.exists():
        shutil.rmtree(target)
    with staged_folder(target, lambda: require_writable_parent(target)) as folder:
        held = {key: hold(tensor, key) for key, tensor in tensors.items()}
        write_file(folder, "instances", TensorFile(TENSORS, held))
        with (folder / TENSORS).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        record = _Record(progress=progress, numbers=numbers, sha256=digest)
        content = record.model_dump(mode="json")
        content["digest"] = digest_content(content)
        (folder / RECORD).write_text(json.dumps(content, indent=1) + "\n")
        fsync_path(folder / RECORD)
    for older in _states(run):
        if older != target:
            shutil.rmtree(older, ignore_errors=True)


def read_state(run: Path) -> TrainingState | None:
    """The newest state of a run; None where it ended before it had one.

    Raises:
        RunStateDamaged: it is not what was written.
    """
    states = _states(run)
    if not states:
        return None
    folder = states[-1]
    try:
        record = _read_record(folder)
        with (folder / TENSORS).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != record.sha256:
                raise ValueError(f"{TENSORS} has another digest than when it was written")
        with safe_open(folder / TENSORS, framework="pt") as file:
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, ValidationError, SafetensorError) as error:
        raise damaged(folder, error) from None
    return TrainingState(record.progress, tensors, record.numbers, record.digest is not None)


def _read_record(folder: Path) -> _Record:
    path = folder / RECORD
    if path.stat().st_size > _MAX_RECORD_BYTES:
        raise ValueError(f"{RECORD} is too large")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{RECORD} is no JSON: {error}") from None
    sealed = isinstance(content, dict) and "digest" in content
    if sealed and content["digest"] != digest_content(content):
        raise ValueError(f"{RECORD} has another digest than when it was written")
    record = _Record.model_validate(content)
    if _step_of(folder) != record.progress.step:
        raise ValueError(f"{RECORD} is of step {record.progress.step}, not of its folder's")
    return record


def _states(run: Path) -> list[Path]:
    found = (path for path in run.glob("state-*") if _NAME.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=_step_of)


def _step_of(folder: Path) -> int:
    return int(folder.name.removeprefix("state-"))
