"""A rank's batches: of all steps that are left, and of an evaluation."""

from collections.abc import Callable, Sequence
from typing import Any

from torch.utils.data import DataLoader, Dataset

from scalenet_cli.plan.training import Recipe
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.order import StepSampler, rank_share
from scalenet_cli.training.seeding import prepare_worker
from scalenet_cli.training.training_task import TrainingTask


def training_loader(
    task: TrainingTask,
    recipe: Recipe,
    devices: Devices,
    workers: int,
    first_step: int,
    last_step: int,
) -> "DataLoader[Any]":
    """This rank's micro-batches of the steps from one to another; one loader for all epochs."""
    sampler = StepSampler(
        size=task.sizes[0],
        batch_size=recipe.batch_size,
        accumulate=recipe.accumulate,
        num_ranks=devices.num_ranks,
        rank=devices.rank,
        order=task.order,
        first_step=first_step,
        last_step=last_step,
    )
    return DataLoader(
        task.training,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=task.collate,
        pin_memory=devices.device.type == "cuda",
        worker_init_fn=prepare_worker,
    )


def validation_loader(
    task: TrainingTask, devices: Devices, batch_size: int, workers: int
) -> "DataLoader[Any]":
    """This rank's share of a task's validation samples."""
    return evaluation_loader(
        task.validation,
        task.sizes[1],
        task.collate,
        devices,
        batch_size=batch_size,
        workers=workers,
    )


def evaluation_loader(
    samples: "Dataset[Any]",
    size: int,
    collate: Callable[[Sequence[Any]], Any],
    devices: Devices,
    *,
    batch_size: int,
    workers: int,
) -> "DataLoader[Any]":
    """This rank's share of all samples, in order."""
    return DataLoader(
        samples,
        batch_sampler=rank_share(size, devices.num_ranks, devices.rank, batch_size),
        num_workers=workers,
        collate_fn=collate,
        pin_memory=devices.device.type == "cuda",
        worker_init_fn=prepare_worker,
    )
