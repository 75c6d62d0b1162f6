"""Puts a run together from its parts and carries it out."""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from scalenet_cli.errors import NoBatch, OptionError
from scalenet_cli.plan.training import TrainingRecipe
from scalenet_cli.surgery.expand import spread_drop_path
from scalenet_cli.training.allocator import keep_freed_memory
from scalenet_cli.training.checkpoint import Checkpointer
from scalenet_cli.training.compiling import compile_blocks
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.evaluate import evaluation_loader
from scalenet_cli.training.loop import Reporter, Schedule, Trainer
from scalenet_cli.training.objective import Objective
from scalenet_cli.training.optimization import Average, build_optimizer, build_schedule, freeze
from scalenet_cli.training.order import StepSampler
from scalenet_cli.training.parallel import Parallel, Sharding
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.samples import (
    TrainingSamples,
    collate,
    prepare_worker,
    seed_everything,
    training_transform,
)
from scalenet_cli.training.splits import Split
from scalenet_cli.training.subject import Subject


@final
@dataclass(frozen=True)
class Work:
    """How a run is carried out: nothing here changes its result beyond rounding."""

    workers: int = 4
    eval_batch_size: int | None = None
    sharding: Sharding = "ddp"
    skip_corrupt: bool = False


def carry_out(
    subject: Subject,
    recipe: TrainingRecipe,
    train: Split,
    val: Split,
    devices: Devices,
    folder: RunFolder,
    work: Work,
    reporter: Reporter,
) -> Checkpointer:
    """Trains from the newest state to the end; see Trainer.run for what it raises.

    Raises:
        OptionError: the batch does not fit the ranks.
        NoBatch: the data are smaller than one batch.
    """
    micro_batch = check_batch(recipe, len(train), devices, work, train.place)
    _prepare_libraries(recipe, devices)
    model = subject.model.float().to(devices.device)
    _prepare_model(model, subject, recipe, devices)
    trained_keys = freeze(model, dict(subject.groups), subject.train)
    parallel = Parallel(model, subject.layout, devices, work.sharding)
    trained = {key: model.get_parameter(key) for key in trained_keys}
    schedule = Schedule(recipe, len(train) // recipe.batch_size)
    optimizer = build_optimizer(model, recipe, fused=not parallel.sharded)
    steps = schedule.last_step
    lr_schedule = build_schedule(optimizer, recipe, steps)
    scaler = torch.amp.GradScaler(devices.device.type, enabled=recipe.precision == "fp16")
    average = None if recipe.ema_decay is None else Average(trained, recipe.ema_decay)
    checkpointer = Checkpointer(folder, subject, trained, optimizer, scaler, devices)
    devices.alike(lambda: checkpointer.restore(average, steps))
    trainer = Trainer(
        parallel,
        trained,
        optimizer,
        lr_schedule,
        Objective(recipe, subject.num_classes, micro_batch),
        schedule,
        devices,
        checkpointer,
        reporter,
        average=average,
        skip_corrupt=work.skip_corrupt,
    )
    batches = _training_loader(
        train, subject.config, recipe, devices, work, checkpointer.progress.step, steps
    )
    eval_batch = work.eval_batch_size or max(micro_batch, 1)
    loader = evaluation_loader(
        val, dict(subject.config), devices, batch_size=eval_batch, workers=work.workers
    )
    trainer.run(batches, loader, torch.zeros(tuple(subject.config["input_size"])))
    return checkpointer


def check_batch(
    recipe: TrainingRecipe, num_samples: int, devices: Devices, work: Work, place: str
) -> int:
    """Samples that one rank runs at a time.

    Raises:
        NoBatch: an epoch has no whole batch.
        OptionError: the batch does not divide, or fp16 meets FSDP.
    """
    if num_samples < recipe.batch_size:
        raise NoBatch(
            f"the training data have {num_samples:,} samples, but a batch is {recipe.batch_size:,}",
            where=place,
            hint=f"choose --batch-size {num_samples} or less",
        )
    share, rest = divmod(recipe.batch_size, devices.num_ranks * recipe.accumulate)
    if rest or not share:
        raise OptionError(
            f"a batch of {recipe.batch_size} is not a multiple of {devices.num_ranks} ranks times "
            f"{recipe.accumulate} micro-batches",
            hint="batch_size is of all devices together: change it, or accumulate",
        )
    if recipe.precision == "fp16" and work.sharding == "fsdp" and devices.num_ranks > 1:
        raise OptionError("fp16 is not supported with --sharding fsdp", hint="use bf16")
    return share


def _prepare_libraries(recipe: TrainingRecipe, devices: Devices) -> None:
    # Pillow warns of images from 90 million pixels on, and refuses twice as many.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    seed_everything(recipe.seed, "start")
    keep_freed_memory()
    if recipe.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    elif devices.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in timm


def _prepare_model(
    model: nn.Module, subject: Subject, recipe: TrainingRecipe, devices: Devices
) -> None:
    if recipe.drop_path is not None:
        spread_drop_path(model, subject.layout, recipe.drop_path, subject.family)
    if recipe.channels_last:
        model.to(memory_format=torch.channels_last)
    if recipe.gradient_checkpointing:
        subject.family.checkpoint_gradients(model)
    if recipe.compile:
        compile_blocks(model, subject.family)


def _training_loader(
    split: Split,
    config: Mapping[str, Any],
    recipe: TrainingRecipe,
    devices: Devices,
    work: Work,
    first_step: int,
    last_step: int,
) -> "DataLoader[Any]":
    """This rank's micro-batches of all steps that are left; one loader for all epochs."""
    samples = TrainingSamples(
        split,
        training_transform(recipe, dict(config)),
        recipe.seed,
        skip_corrupt=work.skip_corrupt,
    )
    sampler = StepSampler(
        len(split),
        recipe.batch_size,
        recipe.accumulate,
        devices.num_ranks,
        devices.rank,
        recipe.seed,
        first_step,
        last_step,
    )
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=work.workers,
        collate_fn=collate,
        pin_memory=devices.device.type == "cuda",
        worker_init_fn=prepare_worker,
    )
