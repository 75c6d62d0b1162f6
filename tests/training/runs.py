"""Tiny runs of finetune: learnable pictures, bundles, and what a run left."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from scalenet_cli import expand_checkpoint
from scalenet_cli.commands.finetune import FinetuneReport, finetune
from scalenet_cli.plan.load import plan_from_dict
from scalenet_cli.surgery.groups import freeze
from scalenet_cli.tasks.requests import FinetuneOptions
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.run_training import Work
from tests.laws.building import write_source
from tests.models import TinyCase, tiny_case

PLAN: Mapping[str, Any] = {
    "version": 1,
    "mapping": "interpolate",
    "factor": 2,
    "adapter": {"dim": 4},
    "start": "copy",
}
# Everything random is on: augmentation, mixup and cutmix, drop path; and all of it is fast.
RECIPE: Mapping[str, Any] = {
    "epochs": 4,
    "batch_size": 8,
    "lr": 5e-3,
    "warmup_epochs": 1,
    "log_steps": 1,
    "drop_path": 0.1,
}
# Nothing random but the order of samples.
PLAIN: Mapping[str, Any] = {
    **RECIPE,
    "no_aug": True,
    "mixup": 0,
    "cutmix": 0,
    "drop_path": 0,
    "smoothing": 0,
}
# To compare runs that add up in another order. Keys' biases have no gradient (softmax does not see
# them) but rounding, from which AdamW's own epsilon of 1e-8 makes steps as large as the rate.
COMPARABLE: Mapping[str, Any] = {**PLAIN, "opt_eps": 1e-4, "epochs": 2}
# Absolute, of losses, weights, averages and moments after such a run of 8 steps at 5e-3: a few
# units in the last place of float32, of which 2.4e-7 is the most that was seen.
BOUND = 1e-6


def slow(*values: object) -> Any:
    """A case of a test that the default run leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow)


def write_data(
    root: Path, *, size: int = 16, classes: int = 5, train: int = 34, val: int = 21
) -> Path:
    """Pictures of which the class is a colour and a direction of stripes, under noise."""
    random = np.random.default_rng(5)
    for split, count in (("train", train), ("validation", val)):
        for index in range(count):
            label = index % classes
            folder = root / split / f"class{label}"
            folder.mkdir(parents=True, exist_ok=True)
            wave = np.arange(size)[:, None] * (label % 2) + np.arange(size)[None] * (label % 3)
            colour = 60 * np.array([label % 2, label % 3, label % 5])[None, None]
            noise = random.integers(0, 60, (size, size, 3))
            picture = (40 + colour // 2 + 20 * (wave[..., None] % 2) + noise).astype(np.uint8)
            Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return root


def write_bundle(folder: Path, name: str = "vit", **changes: Any) -> Path:
    """A tiny model with random weights, expanded; keyword arguments change the plan."""
    return expand_case(tiny_case(name), folder, **changes)


def expand_case(case: TinyCase, folder: Path, **changes: Any) -> Path:
    """The case's model as a bundle, made from a checkpoint beside it."""
    source = write_source(case, folder.with_name(f"{folder.name}-source"))
    plan = {key: value for key, value in {**PLAN, **changes}.items() if value is not None}
    expand_checkpoint(source, plan_from_dict(plan), folder)
    return folder


def train(
    bundle: Path,
    data: Path,
    output: Path,
    recipe: Mapping[str, Any] = RECIPE,
    *,
    reporter: Reporter | None = None,
    workers: int = 0,
    sharding: Any = "ddp",
    **options: Any,
) -> FinetuneReport:
    """A run on the CPU, in this process, without its picture."""
    work = Work(workers=workers, sharding=sharding)
    chosen = FinetuneOptions(settings=dict(recipe), device="cpu", work=work, ablation=False)
    with patch("scalenet_cli.commands.finetune.draw_curves"):
        return finetune(
            bundle, DataOptions(str(data)), output, replace(chosen, **options),
            reporter,
        )  # fmt: skip


class Interrupted(Exception):
    """Ends a run in this process as abruptly as its next line of Python allows."""


class InterruptAt:
    """A reporter that fails at one step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def started(self, first_step: int, last_step: int) -> None: ...
    def evaluated(self, step: int, result: object) -> None: ...
    def note(self, text: str) -> None: ...

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.step:
            raise Interrupted


# Said of every run here: a state dict names no classes.
HEAD_NOTE: Final = "the head is kept: the model has no class names"


class Listener(InterruptAt):
    """Keeps what is said, but for HEAD_NOTE; the run goes to its end."""

    def __init__(self) -> None:
        super().__init__(-1)
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        if not text.startswith(HEAD_NOTE):
            self.notes.append(text)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """The loss of every step."""
    return [line["loss"] for line in metrics(run) if "loss" in line]


def state_of(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of a run's training state."""
    (folder,) = run.glob("state-*")
    return load_file(folder / "tensors.safetensors")


def contents(run: Path) -> dict[str, str]:
    """Digests of all files that a run has to repeat, by their path."""
    return {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.name != "timings.jsonl"
    }


def largest_difference(
    one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]
) -> tuple[float, str]:
    """Between tensors of the same keys, and the key."""
    assert one.keys() == other.keys()
    return max((float((one[key] - other[key]).abs().max()), key) for key in one)


def parameters_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every tensor once, by its first key."""
    return copies(dict(model.named_parameters()))


@dataclass(frozen=True)
class StepSeen:
    """What an optimizer step leaves: copies of trained tensors, rates, and what has a gradient."""

    tensors: Mapping[str, torch.Tensor]
    rates: Mapping[str, float]
    decays: Mapping[str, float]
    with_gradient: frozenset[str]


@dataclass
class Watch:
    """A run as its optimizer sees it; ``model`` is the trained one, at the end."""

    model: nn.Module = field(default_factory=nn.Module)
    steps: list[StepSeen] = field(default_factory=list)


@contextmanager
def watched() -> Iterator[Watch]:
    """Looks at every optimizer step of the runs in the block."""
    watch = Watch()
    trained: dict[str, nn.Parameter] = {}

    def spy(model: nn.Module, groups: Any, train: Any) -> dict[str, nn.Parameter]:
        watch.model = model
        trained.update(freeze(model, groups, train))
        return dict(trained)

    def see(optimizer: torch.optim.Optimizer, *_: object) -> None:
        keys = {id(parameter): key for key, parameter in trained.items()}
        placed = [
            (keys[id(parameter)], group)
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        assert len(placed) == len(trained) == len(dict(placed))
        watch.steps.append(
            StepSeen(
                copies(trained),
                {key: group["lr"] for key, group in placed},
                {key: group["weight_decay"] for key, group in placed},
                frozenset(k for k, p in watch.model.named_parameters() if p.grad is not None),
            )
        )

    handle = register_optimizer_step_post_hook(see)
    try:
        with patch("scalenet_cli.training.run_training.freeze", spy):
            yield watch
    finally:
        handle.remove()


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors as they are now."""
    return {key: value.detach().clone() for key, value in tensors.items()}
