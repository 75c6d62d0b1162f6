"""Tiny studies, and reporters that look on or get in the way."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from torch import nn

from scalenet_cli.families.base import Family
from scalenet_cli.measure.flops import count_pass
from scalenet_cli.study.compare import CompareOptions, CompareReport, compare
from scalenet_cli.study.plots import draw_plots
from scalenet_cli.training.run_training import Work

SOURCE: Mapping[str, Any] = {
    "source": "timm:vit_tiny_patch16_224",
    "model_kwargs": {
        "img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2,
        "num_classes": 5,
    },
    "random_weights": True,
}  # fmt: skip
PLAN: Mapping[str, Any] = {
    "version": 1,
    "mapping": "interpolate",
    "factor": 2,
    "adapter": {"dim": 4},
    "start": "copy",
}
RECIPE: Mapping[str, Any] = {
    "epochs": 2, "batch_size": 8, "lr": 5e-3, "warmup_epochs": 0, "log_steps": 1, "no_aug": True,
    "mixup": 0, "cutmix": 0, "drop_path": 0.1,
}  # fmt: skip
SCALENET: Mapping[str, Any] = {"name": "scalenet", "plan": PLAN}
SWA: Mapping[str, Any] = {"name": "swa", "baseline": "swa", "like": "scalenet"}
NAN: Mapping[str, Any] = {
    "name": "nan",
    "base": True,
    "settings": {"lr": 1e30, "clip_grad": None},
}


class Interrupted(Exception):
    """Ends a study in this process as abruptly as its next line of Python allows."""


class Watch:
    """A reporter that writes down what begins, and may fail at a step of a cell."""

    def __init__(self, cell: str = "", step: int = 0) -> None:
        self.began_cells: list[str] = []
        self.plans: list[CompareReport] = []
        self.notes: list[str] = []
        self.times_left: list[float] = []
        self._cell, self._step = cell, step

    def planned(self, report: CompareReport) -> None:
        self.plans.append(report)

    def began(self, cell: str, order: int, num_cells: int, seconds_left: float | None) -> "Watch":
        self.began_cells.append(cell)
        return self

    def left(self, seconds: float) -> None:
        self.times_left.append(seconds)

    def started(self, first_step: int, last_step: int) -> None: ...
    def evaluated(self, step: int, scores: object) -> None: ...

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        if self.began_cells[-1] == self._cell and step == self._step:
            raise Interrupted

    def note(self, text: str) -> None:
        self.notes.append(text)


# The study's file, its folder, its report, and who watched it.
Made = tuple[Path, Path, CompareReport, Watch]


def without(made: Path, output: Path, *arms: str) -> Path:
    """A copy of a finished study in which these arms were never begun."""
    shutil.copytree(made, output)
    (output / "results.json").unlink()
    for arm in arms:
        shutil.rmtree(output / "cells" / arm)
    return output


def write_study(folder: Path, data: Path, *arms: Mapping[str, Any], **changes: Any) -> Path:
    """A study of the tiny ViT; keyword arguments change its entries."""
    entries = {
        "version": 1, **SOURCE, "data": {"path": str(data)}, "recipe": dict(RECIPE), "seeds": [0],
        "arms": [dict(arm) for arm in arms], **changes,
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(entries, sort_keys=False))
    return path


_counted: dict[Any, Any] = {}


def _count_once(model: nn.Module, family: Family, size: int, *, training: bool) -> Any:
    """What count_pass gives; models of the same tensors, trained alike, are counted once."""
    tensors = [(key, p.shape, p.requires_grad) for key, p in model.named_parameters()]
    key = (str(tensors), str(model), size, training)
    if key not in _counted:
        _counted[key] = count_pass(model, family, size, training=training)
    return _counted[key]


def run_study(
    study: Path, output: Path, reporter: Watch | None = None, **options: Any
) -> CompareReport:
    """On the CPU, in this process, without pictures unless ``plots`` asks for the study's."""
    dry_run, plots = options.pop("dry_run", False), options.pop("plots", False)
    chosen = CompareOptions(device="cpu", work=Work(workers=0), **options)
    draw = draw_plots if plots else lambda *_: ()
    with (
        patch("scalenet_cli.study.arms.count_pass", _count_once),
        patch("scalenet_cli.commands.finetune.draw_curves"),
        patch("scalenet_cli.study.compare.draw_plots", draw),
    ):
        return compare(study, output, chosen, reporter or Watch(), dry_run=dry_run)
