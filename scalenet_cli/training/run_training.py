"""Puts a run together from its parts and carries it out."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import final

import torch
from torch import nn

from scalenet_cli.errors import NoBatch, OptionError
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.training import Recipe
from scalenet_cli.surgery.groups import freeze
from scalenet_cli.training.allocator import keep_freed_memory
from scalenet_cli.training.checkpoint import Checkpointer
from scalenet_cli.training.compiling import compile_blocks
from scalenet_cli.training.devices import DTYPES, Devices
from scalenet_cli.training.loaders import training_loader, validation_loader
from scalenet_cli.training.loop import Reporter, Trainer
from scalenet_cli.training.optimization import Average, build_optimizer, build_schedule
from scalenet_cli.training.parallel import Parallel, Sharding
from scalenet_cli.training.precision import set_types
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.schedule import Schedule
from scalenet_cli.training.seeding import seed_everything
from scalenet_cli.training.training_task import Scores, TrainingTask


@final
@dataclass(frozen=True)
class Work:
    """How a run is carried out: nothing here changes its result beyond rounding.

    ``workers`` are processes that load data; the task decides where it is None.
    """

    workers: int | None = None
    eval_batch_size: int | None = None
    sharding: Sharding = "ddp"


@final
@dataclass(frozen=True)
class Finished:
    """A run at its end. ``ablated`` are the scores of the last model inside of the ablation."""

    checkpointer: Checkpointer
    ablated: Scores | None


@final
@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Everything that a run is made of.

    The trained model is evaluated once more inside of ``ablation``, where one is given.
    """

    subject: TrainedModel
    recipe: Recipe
    task: TrainingTask
    devices: Devices
    folder: RunFolder
    work: Work
    reporter: Reporter
    ablation: AbstractContextManager[None] | None = None


def carry_out(run: TrainingRun) -> Finished:
    """Trains from the newest state to the end; see Trainer.run for what it raises.

    Raises:
        OptionError: the batch does not fit the ranks.
        NoBatch: the data are smaller than one batch.
    """
    micro_batch = check_batch(run.recipe, run.task, run.devices, run.work)
    with _libraries(run.recipe, run.devices):
        return _train(run, micro_batch)


def _train(run: TrainingRun, micro_batch: int) -> Finished:
    recipe, task, devices, work = run.recipe, run.task, run.devices, run.work
    trainer, checkpointer, schedule = _make_trainer(run)
    workers = task.default_workers if work.workers is None else work.workers
    first, ablation = checkpointer.progress.step, run.ablation
    ablated = trainer.run(
        training_loader(
            task,
            recipe,
            devices=devices,
            workers=workers,
            first_step=first,
            last_step=schedule.last_step,
        ),
        validation_loader(task, devices, work.eval_batch_size or micro_batch, workers),
        ablation if ablation is None or not recipe.compile else _uncompiled(ablation),
    )
    return Finished(checkpointer, ablated)


def _make_trainer(run: TrainingRun) -> tuple[Trainer, Checkpointer, Schedule]:
    """Model, optimizer and state, put together and where the run is."""
    subject, recipe, task, devices = run.subject, run.recipe, run.task, run.devices
    model = subject.model
    trained_keys = freeze(model, subject.groups, subject.train)
    set_types(model, DTYPES.get(recipe.precision))
    _prepare_model(model, subject, recipe, task)
    parallel = Parallel(model, subject.layout, devices, run.work.sharding)
    trained = {key: model.get_parameter(key) for key in trained_keys}
    schedule = Schedule(recipe, task.sizes[0] // recipe.batch_size)
    optimizer = build_optimizer(
        model,
        recipe,
        subject.groups,
        fused=not parallel.sharded,
        layer_decay=recipe.decay_per_layer,
    )
    scaler = torch.amp.GradScaler(devices.device.type, enabled=recipe.precision == "fp16")
    average = None if recipe.ema_decay is None else Average(trained, recipe.ema_decay)
    checkpointer = Checkpointer(
        folder=run.folder, subject=subject, task=task, trained=trained, optimizer=optimizer,
        scaler=scaler, devices=devices,
    )  # fmt: skip
    _restore(checkpointer, average, schedule, run)
    trainer = Trainer(
        parallel=parallel,
        trained=trained,
        optimizer=optimizer,
        lr_schedule=build_schedule(optimizer, recipe, schedule.last_step),
        task=task,
        schedule=schedule,
        devices=devices,
        checkpointer=checkpointer,
        reporter=run.reporter,
        average=average,
    )
    return trainer, checkpointer, schedule


def _restore(
    checkpointer: Checkpointer, average: Average | None, schedule: Schedule, run: TrainingRun
) -> None:
    """Goes back to the newest state, on all ranks to the same."""
    devices = run.devices
    notes = devices.run_on_all_ranks(lambda: checkpointer.restore(average, schedule.last_step))
    # A rank that does not see the newest state yet, on a network disk, would begin elsewhere.
    devices.require_same({"step": str(checkpointer.progress.step)})
    devices.run_on_main_rank(checkpointer.tidy)
    for note in notes:
        run.reporter.note(note)


@contextmanager
def _uncompiled(context: AbstractContextManager[None]) -> Iterator[None]:
    """Blocks run without their compiled code: new hooks would compile them anew, or go unheard."""
    with torch.compiler.set_stance("force_eager"), context:
        yield


def check_batch(recipe: Recipe, task: TrainingTask, devices: Devices, work: Work) -> int:
    """Samples that one rank runs at a time.

    Raises:
        NoBatch: an epoch has no whole batch.
        OptionError: the batch does not divide, or fp16 meets FSDP, or the task cannot use it.
    """
    num_samples = task.sizes[0]
    if num_samples < recipe.batch_size:
        raise NoBatch(
            f"the training data have {num_samples:,} samples, but a batch is {recipe.batch_size:,}",
            where=task.place,
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
    task.check(share)
    return share


@contextmanager
def _libraries(recipe: Recipe, devices: Devices) -> Iterator[None]:
    """Torch as the recipe wants it, and afterwards as it was: another run may follow."""
    seed_everything(recipe.seed, "start")
    keep_freed_memory()
    deterministic = torch.are_deterministic_algorithms_enabled()
    benchmark, precision = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    try:
        if recipe.deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True)
            torch.backends.cudnn.benchmark = False
        elif devices.device.type == "cuda":
            torch.set_float32_matmul_precision("high")  # TF32 on GPUs that have it, as in timm
        yield
    finally:
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(precision)


def _prepare_model(
    model: nn.Module, subject: TrainedModel, recipe: Recipe, task: TrainingTask
) -> None:
    task.prepare(model, subject.layout, subject.family)
    if recipe.gradient_checkpointing:
        subject.family.checkpoint_gradients(model)
    if recipe.compile:
        compile_blocks(model, subject.family)
