"""The training loop: steps, evaluations, checkpoints. Every number is a function of the step."""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch
from torch import nn
from torch.utils.data import DataLoader

from scalenet_cli.errors import StoppedOnRequest
from scalenet_cli.plan.training import TrainingRecipe
from scalenet_cli.training.checkpoint import Checkpointer
from scalenet_cli.training.checks import (
    require_finite,
    require_finite_loss,
    require_scale,
    require_whole,
)
from scalenet_cli.training.devices import Devices, answered
from scalenet_cli.training.evaluate import Evaluation, EvaluationMode, evaluate, require_readable
from scalenet_cli.training.objective import Objective
from scalenet_cli.training.optimization import Average
from scalenet_cli.training.parallel import Parallel
from scalenet_cli.training.samples import Batch, Corrupt
from scalenet_cli.training.stopping import Stopper


class Reporter(Protocol):
    """Hears what happens; only that of the main rank is asked to show it."""

    def started(self, first_step: int, last_step: int) -> None:
        """Training begins, or goes on."""
        ...

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        ...

    def evaluated(self, step: int, result: Evaluation) -> None:
        """An evaluation."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should hear of."""
        ...


@final
@dataclass(frozen=True)
class Schedule:
    """Which steps end an epoch, are logged, evaluated and saved."""

    recipe: TrainingRecipe
    steps_per_epoch: int

    @property
    def last_step(self) -> int:
        """Optimizer steps of the whole run."""
        return self.recipe.max_steps or self.recipe.epochs * self.steps_per_epoch

    def is_evaluated(self, step: int) -> bool:
        """Whether the model is evaluated after so many steps."""
        every = self.recipe.eval_steps or self.recipe.eval_epochs * self.steps_per_epoch
        return step == self.last_step or step % every == 0

    def is_saved(self, step: int) -> bool:
        """Whether a checkpoint is written between evaluations."""
        return bool(self.recipe.save_steps) and step % int(self.recipe.save_steps or 1) == 0

    def is_logged(self, step: int) -> bool:
        """Whether the step gets a line of metrics."""
        return step % self.recipe.log_steps == 0 or step == self.last_step


@final
@dataclass(frozen=True)
class StepResult:
    """Mean loss of a rank's share, and the norm of the whole gradient; both may be on a GPU."""

    loss: torch.Tensor
    norm: torch.Tensor


@final
class Trainer:
    """One run: what it needs is given, what changes is in ``checkpointer.progress``."""

    def __init__(
        self,
        parallel: Parallel,
        trained: dict[str, nn.Parameter],
        optimizer: Any,
        lr_schedule: Any,
        objective: Objective,
        schedule: Schedule,
        devices: Devices,
        checkpointer: Checkpointer,
        reporter: Reporter,
        *,
        average: Average | None,
        skip_corrupt: bool,
    ) -> None:
        self._parallel, self._trained, self._optimizer = parallel, trained, optimizer
        self._lr_schedule, self._objective, self._schedule = lr_schedule, objective, schedule
        self._devices, self._checkpointer, self._reporter = devices, checkpointer, reporter
        self._average, self._skip_corrupt = average, skip_corrupt
        self._recipe = schedule.recipe
        self._scaler = checkpointer.scaler
        self._pending: list[tuple[int, StepResult, float]] = []
        self._skipped: dict[str, str] = {}  # since all ranks were last asked
        self._clock, self._timed_step = 0.0, 0

    def run(self, batches: "DataLoader[Any]", val: "DataLoader[Any]", sample: torch.Tensor) -> None:
        """Trains from where the checkpointer is to the end.

        Raises:
            StoppedOnRequest: a signal; the state was saved.
            LossNotFinite, ImageUnreadable, RankLost, OutputUnwritable: the run cannot go on.
        """
        progress = self._checkpointer.progress
        last = self._schedule.last_step
        self._reporter.started(progress.step, last)
        with Stopper() as stopper:
            if progress.before_top1 is None:
                progress.before_top1 = self._evaluate(0, val, sample).top1
                self._stop_if_asked(stopper, 0)
            self._parallel.model.train()
            self._clock, self._timed_step = time.perf_counter(), progress.step
            micro = iter(batches)  # in here, because its workers inherit what signals do
            while progress.step < last:
                self._step(progress.step, micro)
                progress.step += 1
                self._after_step(progress.step, val, sample)
                self._stop_if_asked(stopper, progress.step)

    def _after_step(self, step: int, val: "DataLoader[Any]", sample: torch.Tensor) -> None:
        due = self._schedule.is_evaluated(step)
        saved = due or self._schedule.is_saved(step)
        if self._devices.device.type == "cpu" or self._schedule.is_logged(step) or saved:
            self._settle()
        if saved or self._devices.num_ranks == 1:
            self._tell_of_corrupt()
        if due:
            result = self._evaluate(step, val, sample)
            self._checkpointer.save(result, self._average)
        elif saved:
            self._checkpointer.save(None, self._average)
        if saved:
            self._clock, self._timed_step = time.perf_counter(), step

    def _step(self, step: int, batches: Iterator[Batch]) -> None:
        """One optimizer step over its micro-batches."""
        recipe, count = self._recipe, self._recipe.accumulate
        self._lr_schedule.step_update(step)
        epoch = step // self._schedule.steps_per_epoch
        total = torch.zeros((), device=self._devices.device)
        for order in range(count):
            batch = next(batches)
            self._hear_of_corrupt(require_readable(batch, skip=self._skip_corrupt), "training")
            require_whole(batch.images, recipe.batch_size // (count * self._devices.num_ranks))
            purpose = f"step {step}, micro-batch {order}, rank {self._devices.rank}"
            images, targets = self._objective.prepare(
                self._to_device(batch.images),
                batch.targets.to(self._devices.device, non_blocking=True),
                epoch=epoch,
                purpose=purpose,
            )
            with self._parallel.accumulating(order == count - 1), answered():
                with self._devices.autocast(recipe.precision):
                    loss = self._objective.loss(self._parallel.run(images), targets) / count
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
        norm = self._apply()
        group = self._optimizer.param_groups[0]
        lr = float(group["lr"] / group.get("lr_scale", 1.0))  # before layer decay
        self._pending.append((step + 1, StepResult(total, norm), lr))

    def _apply(self) -> torch.Tensor:
        """Clips, checks where that costs nothing, steps."""
        self._scaler.unscale_(self._optimizer)
        limit = self._recipe.clip_grad or float("inf")
        norm = nn.utils.clip_grad_norm_(self._trained.values(), limit)
        if isinstance(norm, torch.distributed.tensor.DTensor):
            norm = norm.full_tensor()
        if self._scaler.is_enabled() or norm.device.type != "cpu" or bool(torch.isfinite(norm)):
            self._scaler.step(self._optimizer)
            self._scaler.update()
            self._optimizer.zero_grad(set_to_none=True)
            if self._average is not None:
                self._average.update()
        return norm

    def _settle(self) -> None:
        """Reads the results of the steps since the last time; a GPU waits only here."""
        progress = self._checkpointer.progress
        if not self._pending:
            return
        losses = torch.stack([result.loss for _, result, _ in self._pending])
        means = (self._devices.sum(losses) / self._devices.num_ranks).tolist()
        norms = torch.stack([result.norm for _, result, _ in self._pending]).tolist()
        for (step, _, lr), loss, norm in zip(self._pending, means, norms, strict=True):
            if self._scaler.is_enabled():
                require_scale(step, self._scaler.get_scale())
            else:
                require_finite(step, loss, norm, lr, self._trained)
            progress.loss_sum += loss
            progress.loss_steps += 1
            if self._schedule.is_logged(step):
                self._log_step(step, loss, norm, lr)
        self._pending.clear()

    def _log_step(self, step: int, loss: float, norm: float, lr: float) -> None:
        values = {"loss": loss, "lr": lr, "grad_norm": norm}
        self._reporter.stepped(step, values)
        self._checkpointer.log({"step": step, "epoch": self._epoch(step), **values})
        now = time.perf_counter()
        samples = (step - self._timed_step) * self._recipe.batch_size
        self._checkpointer.log_time(step, samples, now - self._clock)
        self._clock, self._timed_step = now, step

    def _evaluate(self, step: int, val: "DataLoader[Any]", sample: torch.Tensor) -> Evaluation:
        """The trained average, where there is one, over all of the validation data."""
        if self._average is not None and step:
            self._average.swap()
        with EvaluationMode(self._parallel.model):
            result = evaluate(
                self._parallel.model,
                val,
                self._devices,
                sample=sample,
                precision=self._recipe.precision,
                skip_corrupt=self._skip_corrupt,
                channels_last=self._recipe.channels_last,
            )
        self._parallel.forget_gathered()
        if self._average is not None and step:
            self._average.swap()
        require_finite_loss(step, result.loss)
        self._hear_of_corrupt(result.corrupt if self._devices.is_main else (), "validation")
        self._tell_of_corrupt()
        progress = self._checkpointer.progress
        values: dict[str, float] = {"step": step, "epoch": self._epoch(step)}
        if progress.loss_steps:
            values["train_loss"] = progress.loss_sum / progress.loss_steps
            progress.loss_sum, progress.loss_steps = 0.0, 0
        values |= {"val_loss": result.loss, "top1": result.top1, "top5": result.top5}
        self._checkpointer.log(values)
        self._reporter.evaluated(step, result)
        return result

    def _epoch(self, step: int) -> float:
        return round(step / self._schedule.steps_per_epoch, 6)

    def _to_device(self, images: torch.Tensor) -> torch.Tensor:
        layout = torch.channels_last if self._recipe.channels_last else torch.preserve_format
        return images.to(self._devices.device, non_blocking=True, memory_format=layout)

    def _hear_of_corrupt(self, found: Iterable[Corrupt], data: str) -> None:
        for one in found:
            self._skipped.setdefault(f"{one.name} of the {data} data", one.reason)

    def _tell_of_corrupt(self) -> None:
        """What any rank has skipped is named and counted once, in this run and its resumed ones."""
        for part in self._devices.gather(self._skipped):
            for name, reason in part.items():
                if name not in self._checkpointer.progress.corrupt:
                    self._checkpointer.progress.corrupt.append(name)
                    self._reporter.note(f"skipped {name}: {reason}")
        self._skipped = {}

    def _stop_if_asked(self, stopper: Stopper, step: int) -> None:
        """All ranks stop after the same step."""
        if self._devices.device.type != "cpu" and not self._schedule.is_logged(step):
            return
        asked = torch.tensor(float(stopper.request is not None), device=self._devices.device)
        if not self._devices.sum(asked) or step == self._schedule.last_step:
            return  # nobody asked, or too late: all is done and saved
        self._settle()
        self._tell_of_corrupt()
        if self._checkpointer.saved_step != step:
            self._checkpointer.save(None, self._average)
        raise StoppedOnRequest(
            f"stopped by {stopper.request or 'another rank'} after step {step} of "
            f"{self._schedule.last_step}; its state is saved",
            where=str(self._checkpointer.folder.path),
            hint="the same command with --resume goes on from there",
        )
