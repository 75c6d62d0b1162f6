"""Checkpoints of a run: the last and the best bundle, and the state to go on from."""

from typing import Any, Final, final

import torch
from torch import nn

from scalenet_cli.bundle.trained import write_trained
from scalenet_cli.errors import RunStateDamaged
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.schema import Group
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.optimization import Average
from scalenet_cli.training.parallel import assign, gathered
from scalenet_cli.training.run_folder import FileStart, RunFolder
from scalenet_cli.training.saved_bundles import check_saved
from scalenet_cli.training.state import (
    Progress,
    TrainingState,
    check_tensors,
    damaged,
    optimizer_tensors,
    read_state,
    restore_optimizer,
    write_state,
)
from scalenet_cli.training.training_task import Scores, TrainingTask

_UNSEALED: Final = (
    "an earlier version saved the state and gave it no digest, so damage to its numbers cannot be "
    "noticed; the next checkpoint has one"
)


@final
class RunningProgress:
    """Progress that changes while a run is under way; see Progress."""

    def __init__(self, start: Progress) -> None:
        self.step = start.step
        self.loss_sum, self.loss_steps = start.loss_sum, start.loss_steps
        self.best_step, self.best, self.before = start.best_step, start.best, start.before
        self.skipped = dict.fromkeys(start.skipped)

    def freeze(
        self,
        *,
        metrics: FileStart,
        bundles: dict[str, str],
        num_averaged: int,
        scaler: dict[str, float],
    ) -> Progress:
        """As it is written."""
        return Progress(
            step=self.step,
            metrics_bytes=metrics.num_bytes,
            metrics_sha256=metrics.sha256,
            bundles=bundles,
            loss_sum=self.loss_sum,
            loss_steps=self.loss_steps,
            best_step=self.best_step,
            best=self.best,
            before=self.before,
            num_averaged=num_averaged,
            scaler=scaler,
            skipped=tuple(self.skipped),
        )


@final
class Checkpointer:
    """Writes on the main rank what all ranks have; the other ranks only help to gather it."""

    def __init__(
        self,
        folder: RunFolder,
        subject: TrainedModel,
        task: TrainingTask,
        trained: dict[str, nn.Parameter],
        optimizer: Any,
        scaler: torch.amp.GradScaler,
        devices: Devices,
    ) -> None:
        self.folder, self.scaler = folder, scaler
        self.progress = RunningProgress(Progress())
        self.saved_step: int | None = None
        self._subject, self._task = subject, task
        self._trained, self._optimizer = trained, optimizer
        self._devices = devices
        self._metrics: dict[str, float] = {}
        self._bundles: dict[str, str] = {}  # digests of the manifests of last/ and best/
        self._metrics_bytes = 0

    def restore(self, average: Average | None, last_step: int) -> tuple[str, ...]:
        """Goes on from the newest state, or from the start where there is none yet.

        Nothing is written: that is for :meth:`tidy`, once every rank has come so far. Returns what
        the user should hear of.

        Raises:
            RunStateDamaged: state, metrics, last/ or best/ are not what was written.
        """
        state = read_state(self.folder.path)
        progress = Progress() if state is None else state.progress
        self.folder.require_metrics(FileStart(progress.metrics_bytes, progress.metrics_sha256))
        self._metrics_bytes = progress.metrics_bytes
        if progress.step > last_step:
            late = ValueError(f"it is after step {progress.step} of a run of {last_step}")
            raise damaged(self.folder.path, late)
        self.progress = RunningProgress(progress)
        notes: list[str] = []
        if state is not None:
            self._restore(state, average)
            notes = [] if state.sealed else [_UNSEALED]
        if self._devices.is_main:
            sealed = state is None or state.sealed
            notes += self._check_bundles(progress, last_step, sealed=sealed)
        return tuple(notes)

    def _restore(self, state: TrainingState, average: Average | None) -> None:
        tensors = state.tensors
        try:
            check_tensors(
                tensors, self._trained, averaged=average is not None, mixed=self._is_mixed
            )
            assign(self._trained, _part(tensors, "model/"))
            restore_optimizer(self._optimizer, self._trained, tensors, state.numbers)
        except (ValueError, LookupError) as error:
            raise damaged(self.folder.path, error) from None
        if average is not None:
            assign(average.tensors(), _part(tensors, "average/"))
            average.num_averaged = state.progress.num_averaged
        if state.progress.scaler:
            self.scaler.load_state_dict({**self.scaler.state_dict(), **state.progress.scaler})

    def _check_bundles(self, progress: Progress, last_step: int, *, sealed: bool) -> list[str]:
        """last/ and best/ are whole; the best one is forgotten where somebody has removed it."""
        found = check_saved(self.folder, self._subject.bundle, progress, last_step, sealed=sealed)
        self._bundles = dict(found)
        missing = sorted(progress.bundles.keys() - found.keys())
        if missing and progress.step == last_step:
            raise RunStateDamaged(
                f"the run has ended, and its {missing[0]}/ is missing",
                where=str(self.folder.path),
                hint="put it back from a copy, or start the run anew in another folder",
            )
        notes = []
        if "last" in missing:
            notes.append("last/ is missing; the next checkpoint writes it anew")
        if "best" in missing:
            notes.append(
                f"best/ is missing; that of step {progress.best_step} is forgotten, and the next "
                "evaluation is the best so far"
            )
            self.progress.best, self.progress.best_step = None, None
        return notes

    def tidy(self) -> None:
        """Removes from the folder what belongs to steps that will be done again."""
        self.folder.go_back(self._metrics_bytes)

    @property
    def trained_groups(self) -> tuple[Group, ...]:
        """What of the model is trained."""
        return self._subject.train

    def is_better(self, value: float, other: float | None) -> bool:
        """Whether a value of the task's metric beats another, or there is no other."""
        if other is None:
            return True
        return value > other if self._task.larger_is_better else value < other

    @property
    def _is_mixed(self) -> bool:
        return type(self._optimizer).__name__.startswith(("Adafactor", "Muon"))

    def save(self, result: Scores | None, average: Average | None) -> None:
        """Writes last/, best/ where the evaluation is the best so far, and the state.

        The state comes last: whatever was written before belongs to a step that is done again.

        Raises:
            OutputUnwritable: a full disk, for instance; the earlier checkpoint stays.
        """
        main = self._devices.is_main
        raw = gathered(self._trained, keep=main)
        tensors, numbers = optimizer_tensors(self._optimizer, self._trained, keep=main)
        tensors |= {f"model/{key}": tensor for key, tensor in raw.items()}
        chosen = raw
        if average is not None:
            chosen = gathered(average.tensors(), keep=main)
            tensors |= {f"average/{key}": tensor for key, tensor in chosen.items()}
        progress = self.progress
        better = False
        self._metrics = {}
        if result is not None:
            self._metrics = {**result.metrics, "val_loss": result.loss}
            better = self.is_better(result.metrics[self._task.metric], progress.best)
        if result is not None and better:
            progress.best_step = progress.step
            progress.best = result.metrics[self._task.metric]
        self._devices.run_on_main_rank(
            lambda: self._write(chosen, tensors, numbers, better=better, average=average)
        )
        self.saved_step = progress.step

    def _write(
        self,
        chosen: dict[str, torch.Tensor],
        tensors: dict[str, torch.Tensor],
        numbers: dict[str, dict[str, float]],
        *,
        better: bool,
        average: Average | None,
    ) -> None:
        for name in ("last", "best") if better else ("last",):
            self._bundles[name] = self._write_bundle(chosen, name, averaged=average is not None)
        scale = self.scaler.state_dict() if self.scaler.is_enabled() else {}
        progress = self.progress.freeze(
            metrics=self.folder.sync_metrics(),
            bundles=dict(sorted(self._bundles.items())),
            num_averaged=0 if average is None else average.num_averaged,
            scaler={key: float(scale[key]) for key in ("scale", "_growth_tracker") if scale},
        )
        write_state(self.folder.path, progress, tensors, numbers)

    def _write_bundle(self, tensors: dict[str, torch.Tensor], name: str, *, averaged: bool) -> str:
        subject, step = self._subject, self.progress.step
        entry = subject.trained_entry(step, self._metrics, averaged=averaged)
        base, instances = subject.parts(tensors)
        shown = ", ".join(f"{key} {value:.4g}" for key, value in self._metrics.items())
        story = f"{entry.steps} optimizer steps on {', '.join(entry.groups)}. {shown}".strip()
        return write_trained(
            self.folder.path / name,
            subject.bundle,
            subject.manifest.model_copy(update={"trained": entry}),
            base=base,
            instances=instances,
            story=story,
        )

    def log(self, values: dict[str, Any]) -> None:
        """One line of metrics."""
        if self._devices.is_main:
            self.folder.append(self.folder.metrics, values)

    def log_time(self, step: int, samples: int, seconds: float) -> None:
        """How fast the steps since the last line were: apart from the metrics, which repeat."""
        if self._devices.is_main:
            values = {"step": step, "samples_per_second": round(samples / seconds, 2)}
            self.folder.append(self.folder.timings, values)


def _part(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
