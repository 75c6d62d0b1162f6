"""Evaluation: every sample counted once, whatever the number of ranks."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch.nn import functional as F

from scalenet_cli.errors import DataUnreadable, ImageUnreadable, TargetOutOfRange
from scalenet_cli.tasks.image_classification.data.samples import (
    Batch,
)
from scalenet_cli.training.devices import Devices, Precision
from scalenet_cli.training.training_task import Skipped

TOP = 5


class Observer(Protocol):
    """Sees every batch of this rank: positions in the split, targets, logits (B, classes).

    Positions are on the CPU, targets and logits on one device, which may be another.
    """

    def __call__(self, indices: torch.Tensor, targets: torch.Tensor, logits: torch.Tensor) -> None:
        """Called once per batch."""
        ...


@final
@dataclass(frozen=True)
class Evaluation:
    """Sums over all samples and ranks; accuracies are in per cent.

    ``seconds`` is of this rank, data loading included.
    """

    num_samples: int
    correct1: int
    correct5: int
    loss_sum: float
    corrupt: tuple[Skipped, ...] = ()
    seconds: float = field(default=0.0, compare=False)

    @property
    def top1(self) -> float:
        """Share of samples whose highest logit is the target's."""
        return 100 * self.correct1 / self.num_samples

    @property
    def top5(self) -> float:
        """Share of samples whose target is among the five highest logits."""
        return 100 * self.correct5 / self.num_samples

    @property
    def loss(self) -> float:
        """Mean cross entropy."""
        return self.loss_sum / self.num_samples


def evaluate(
    model: Callable[[torch.Tensor], torch.Tensor],
    loader: Iterable[Batch],
    devices: Devices,
    *,
    sample: torch.Tensor,
    precision: Precision = "fp32",
    skip_corrupt: bool = False,
    channels_last: bool = False,
    observe: Observer | None = None,
) -> Evaluation:
    """Runs a model in evaluation mode over this rank's batches and adds up all ranks.

    ``sample`` (C, H, W) is any image: a rank without samples left runs it and drops the answer.

    Raises:
        ImageUnreadable: an image is damaged, and they are not to be skipped.
        DataUnreadable: nothing was left to count.
    """
    sums = torch.zeros(4, dtype=torch.float64)  # samples, top-1, top-5, loss
    corrupt: list[Skipped] = []
    started = time.perf_counter()
    for batch in loader:
        corrupt += require_readable(batch, skip=skip_corrupt)
        images = batch.images if len(batch.images) else sample[None]
        images = images.to(devices.device, non_blocking=True)
        if channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), devices.autocast(precision):
            logits = model(images).float()
        if len(batch.targets):
            # Metal has no float64.
            logits = logits.cpu() if devices.device.type == "mps" else logits
            targets = batch.targets.to(logits.device)
            sums += _count(logits, targets)
            if observe is not None:
                observe(batch.indices, targets, logits)
    seconds = time.perf_counter() - started
    return _add_ranks(devices, sums, corrupt, seconds)


def _add_ranks(
    devices: Devices, sums: torch.Tensor, corrupt: list[Skipped], seconds: float
) -> Evaluation:
    """The evaluation of all ranks.

    Raises:
        DataUnreadable: nothing was left to count.
    """
    total = devices.sum(sums.to(devices.device) if devices.device.type == "cuda" else sums)
    num_samples, correct1, correct5, loss_sum = total.tolist()
    everywhere = tuple(one for part in devices.gather(corrupt) for one in part)
    if not num_samples:
        raise DataUnreadable(
            f"no image could be evaluated: {len(everywhere)} cannot be decoded",
            where=everywhere[0].name if everywhere else None,
        )
    return Evaluation(
        num_samples=int(num_samples),
        correct1=int(correct1),
        correct5=int(correct5),
        loss_sum=loss_sum,
        corrupt=everywhere,
        seconds=seconds,
    )


def require_readable(batch: Batch, *, skip: bool) -> Iterator[Skipped]:
    """The images of a batch that could not be decoded.

    Raises:
        ImageUnreadable: there are some, and they are not to be skipped.
    """
    for one in batch.corrupt:
        if not skip:
            raise ImageUnreadable(
                f"the image cannot be decoded: {one.reason}",
                where=one.name,
                hint="remove it, or add --skip-corrupt to leave such images out and count them",
            )
        yield one


def top_classes(logits_BK: torch.Tensor) -> torch.Tensor:
    """The five classes with the highest logits, best first, or all where there are fewer: (B, 5).

    The same call as in timm, so that equal logits are ranked as there.
    """
    return logits_BK.topk(min(TOP, logits_BK.shape[1]), dim=1).indices


def _count(logits_BK: torch.Tensor, targets_B: torch.Tensor) -> torch.Tensor:
    classes = logits_BK.shape[1]
    if int(targets_B.max()) >= classes or int(targets_B.min()) < 0:
        wrong = next(t for t in targets_B.tolist() if not 0 <= t < classes)
        raise TargetOutOfRange(
            f"a target is {wrong}, but the model has {classes} classes (0 to {classes - 1})",
            hint="the data have other classes than the model: give a --class-map, or finetune",
        )
    loss = F.cross_entropy(logits_BK.double(), targets_B, reduction="sum")
    ranked = top_classes(logits_BK) == targets_B[:, None]
    counts = (torch.tensor(len(targets_B)), ranked[:, 0].sum(), ranked.sum(), loss)
    return torch.stack([count.double().cpu() for count in counts])
