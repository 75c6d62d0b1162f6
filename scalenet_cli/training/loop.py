"""The training loop: steps, evaluations, checkpoints. Every number is a function of the step."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import nn
from torch.utils.data import DataLoader

from scalenet_cli.errors import StoppedOnRequest
from scalenet_cli.files.stop_requests import Stopper
from scalenet_cli.training.checkpoint import Checkpointer
from scalenet_cli.training.checks import require_finite, require_finite_loss, require_scale
from scalenet_cli.training.devices import Devices, answered
from scalenet_cli.training.optimization import Average
from scalenet_cli.training.parallel import Parallel
from scalenet_cli.training.schedule import Schedule
from scalenet_cli.training.training_task import EvaluationMode, Scores, Skipped, TrainingTask


class Reporter(Protocol):
    """Hears what happens; only that of the main rank is asked to show it."""

    def started(self, first_step: int, last_step: int) -> None:
        """Training begins, or goes on."""
        ...

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """Metrics of a step."""
        ...

    def evaluated(self, step: int, scores: Scores) -> None:
        """An evaluation."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should hear of."""
        ...


class StepResult(NamedTuple):
    """Mean loss of a rank's share, and the norm of the whole gradient; all may be on a GPU.

    ``parts`` are those of the loss, by name, where its objective has several.
    """

    loss: torch.Tensor
    norm: torch.Tensor
    parts: Mapping[str, torch.Tensor]


@final
class Trainer:
    """One run: what it needs is given, what changes is in ``checkpointer.progress``."""

    def __init__(
        self,
        *,
        parallel: Parallel,
        trained: dict[str, nn.Parameter],
        optimizer: Any,
        lr_schedule: Any,
        task: TrainingTask,
        schedule: Schedule,
        devices: Devices,
        checkpointer: Checkpointer,
        reporter: Reporter,
        average: Average | None,
    ) -> None:
        self._parallel, self._trained, self._optimizer = parallel, trained, optimizer
        self._lr_schedule, self._task, self._schedule = lr_schedule, task, schedule
        self._devices, self._checkpointer, self._reporter = devices, checkpointer, reporter
        self._average = average
        self._recipe, self._ranks = schedule.recipe, devices.num_ranks
        self._scaler = checkpointer.scaler
        self._pending: list[tuple[int, StepResult, float]] = []
        self._skipped: dict[str, str] = {}  # since all ranks were last asked
        self._clock, self._timed_step = 0.0, 0

    def run(
        self,
        batches: "DataLoader[Any]",
        val: "DataLoader[Any]",
        ablation: AbstractContextManager[None] | None,
    ) -> Scores | None:
        """Trains from where the checkpointer is to the end.

        Returns the scores inside of ``ablation``, where it lacks some of its blocks; None without
        one, or where a signal came in the last step.

        Raises:
            StoppedOnRequest: a signal; the state was saved.
            LossNotFinite, DataError, RankLost, OutputUnwritable: the run cannot go on.
        """
        progress = self._checkpointer.progress
        last = self._schedule.last_step
        self._reporter.started(progress.step, last)
        with Stopper() as stopper:
            if progress.before is None:
                progress.before = self._evaluate(0, val).metrics[self._task.metric]
                for text in self._task.remarks(progress.before, self._checkpointer.trained_groups):
                    self._reporter.note(text)
                self._stop_if_asked(stopper, 0)
            self._parallel.model.train()
            self._clock, self._timed_step = time.perf_counter(), progress.step
            micro = iter(batches)  # in here, because its workers inherit what signals do
            while progress.step < last:
                self._step(progress.step, micro)
                progress.step += 1
                self._after_step(progress.step, val)
                self._stop_if_asked(stopper, progress.step)
            if ablation is None or self._is_asked(stopper):
                return None
            with ablation:
                return self._scores(last, val)

    def _after_step(self, step: int, val: "DataLoader[Any]") -> None:
        due = self._schedule.is_evaluated(step)
        saved = due or self._schedule.is_saved(step)
        if self._devices.device.type == "cpu" or self._schedule.is_logged(step) or saved:
            self._settle()
        if saved or self._devices.num_ranks == 1:
            self._tell_of_skipped()
        if due:
            result = self._evaluate(step, val)
            self._checkpointer.save(result, self._average)
        elif saved:
            self._checkpointer.save(None, self._average)
        if saved:
            self._clock, self._timed_step = time.perf_counter(), step

    def _step(self, step: int, batches: Iterator[Any]) -> None:
        """One optimizer step over its micro-batches."""
        recipe, count = self._recipe, self._recipe.accumulate
        self._lr_schedule.step_update(step)
        epoch = step // self._schedule.steps_per_epoch
        total = torch.zeros((), device=self._devices.device)
        parts: dict[str, torch.Tensor] = {}
        for order, (batch, weight) in enumerate(self._weighted(batches)):
            skipped = self._task.accept(batch, recipe.batch_size // (count * self._ranks))
            self._hear_of_skipped(skipped, "training")
            purpose = f"step {step}, micro-batch {order}, rank {self._devices.rank}"
            with self._parallel.accumulating(order == count - 1), answered():
                with self._devices.autocast(recipe.precision):
                    run, device = self._parallel.run, self._devices.device
                    found = self._task.loss(run, batch, device, epoch=epoch, purpose=purpose)
                    loss = found.total * weight
                torch.autograd.backward(self._scaler.scale(loss))
            total += loss.detach()
            for name, part in found.parts.items():
                parts[name] = parts.get(name, torch.zeros_like(total)) + part.detach() * weight
        norm = self._apply()
        group = self._optimizer.param_groups[0]
        lr = float(group["lr"] / group.get("lr_scale", 1.0))  # before layer decay
        self._pending.append((step + 1, StepResult(total, norm, parts), lr))

    def _weighted(self, batches: Iterator[Any]) -> Iterator[tuple[Any, float]]:
        """The micro-batches of a step, each with the share that its mean has in the step's.

        Gradients are averaged over ranks, so that a share is of what one rank has on average.
        """
        count = self._recipe.accumulate
        if self._task.even:
            for _ in range(count):
                yield next(batches), 1 / count
            return
        held = [next(batches) for _ in range(count)]
        targets = [self._task.num_targets(batch) for batch in held]
        total = torch.tensor(float(sum(targets)), device=self._devices.device)
        everywhere = float(self._devices.sum(total)) or 1.0
        for batch, own in zip(held, targets, strict=True):
            yield batch, own * self._ranks / everywhere

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
        means = self._means([result.loss for _, result, _ in self._pending])
        results = [result for _, result, _ in self._pending]
        parts = {
            name: self._means([one.parts.get(name, torch.zeros_like(one.loss)) for one in results])
            for name in dict.fromkeys(name for one in results for name in one.parts)
        }
        norms = torch.stack([result.norm for _, result, _ in self._pending]).tolist()
        rows = zip(self._pending, means, norms, strict=True)
        for order, ((step, result, lr), loss, norm) in enumerate(rows):
            if self._scaler.is_enabled():
                require_scale(step, self._scaler.get_scale())
            else:
                require_finite(step, loss, norm=norm, lr=lr, trained=self._trained)
            progress.loss_sum += loss
            progress.loss_steps += 1
            if self._schedule.is_logged(step):
                own = {f"loss/{name}": parts[name][order] for name in result.parts}
                self._log_step(step, {"loss": loss, **own, "lr": lr, "grad_norm": norm})
        self._pending.clear()

    def _means(self, values: list[torch.Tensor]) -> list[float]:
        """Over all ranks, of one number per step."""
        summed = self._devices.sum(torch.stack(values))
        means: list[float] = (summed / self._devices.num_ranks).tolist()
        return means

    def _log_step(self, step: int, values: Mapping[str, float]) -> None:
        self._reporter.stepped(step, values)
        self._checkpointer.log({"step": step, "epoch": self._epoch(step), **values})
        now = time.perf_counter()
        samples = (step - self._timed_step) * self._recipe.batch_size
        self._checkpointer.log_time(step, samples, now - self._clock)
        self._clock, self._timed_step = now, step

    def _evaluate(self, step: int, val: "DataLoader[Any]") -> Scores:
        """Scores that are checked, logged and told."""
        result = self._scores(step, val)
        require_finite_loss(step, result.loss)
        self._hear_of_skipped(result.skipped if self._devices.is_main else (), "validation")
        self._tell_of_skipped()
        progress = self._checkpointer.progress
        values: dict[str, float] = {"step": step, "epoch": self._epoch(step)}
        if progress.loss_steps:
            values["train_loss"] = progress.loss_sum / progress.loss_steps
            progress.loss_sum, progress.loss_steps = 0.0, 0
        values |= {"val_loss": result.loss, **result.metrics}
        self._checkpointer.log(values)
        self._reporter.evaluated(step, result)
        return result

    def _scores(self, step: int, val: "DataLoader[Any]") -> Scores:
        """The trained average, where there is one, over all of the validation data."""
        if self._average is not None and step:
            self._average.swap()
        with EvaluationMode(self._parallel.model):
            result = self._task.evaluate(self._parallel.model, val, self._devices)
        self._parallel.forget_gathered()
        if self._average is not None and step:
            self._average.swap()
        return result

    def _epoch(self, step: int) -> float:
        return round(step / self._schedule.steps_per_epoch, 6)

    def _hear_of_skipped(self, found: Iterable[Skipped], data: str) -> None:
        for one in found:
            self._skipped.setdefault(f"{one.name} of the {data} data", one.reason)

    def _tell_of_skipped(self) -> None:
        """What any rank has skipped is named and counted once, in this run and its resumed ones."""
        for part in self._devices.gather(self._skipped):
            for name, reason in part.items():
                if name not in self._checkpointer.progress.skipped:
                    self._checkpointer.progress.skipped[name] = None
                    self._reporter.note(f"skipped {name}: {reason}")
        self._skipped = {}

    def _stop_if_asked(self, stopper: Stopper, step: int) -> None:
        """All ranks stop after the same step."""
        if self._devices.device.type != "cpu" and not self._schedule.is_logged(step):
            return
        if not self._is_asked(stopper) or step == self._schedule.last_step:
            return  # nobody asked, or too late: all is done and saved
        self._settle()
        self._tell_of_skipped()
        if self._checkpointer.saved_step != step:
            self._checkpointer.save(None, self._average)
        raise StoppedOnRequest(
            f"stopped by {stopper.request or 'another rank'} after step {step} of "
            f"{self._schedule.last_step}; its state is saved",
            where=str(self._checkpointer.folder.path),
            hint="the same command with --resume goes on from there",
        )

    def _is_asked(self, stopper: Stopper) -> bool:
        """Whether a signal asked any rank to stop."""
        asked = torch.tensor(float(stopper.request is not None), device=self._devices.device)
        return bool(self._devices.sum(asked))
