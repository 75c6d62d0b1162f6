"""``scalenet finetune``: trains a bundle's model; what comes out is a run with bundles in it."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.bundle.reports import HeadClasses, Report
from scalenet_cli.commands.finetune_setup import FinetuneOptions, Setup, set_up
from scalenet_cli.errors import LossNotFinite, StoppedOnRequest
from scalenet_cli.plan.schema import Group
from scalenet_cli.training.checkpoint import Checkpointer
from scalenet_cli.training.compiling import compiling
from scalenet_cli.training.curves import draw_curves
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices, open_devices
from scalenet_cli.training.failures import explained
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.quiet import Quiet
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.session import carry_out

_MEMORY_HINT: Final = (
    "a larger --accumulate with the same --batch-size, --gradient-checkpointing, or --precision "
    "bf16; for evaluation a smaller --eval-batch-size"
)
_WORKER_HINT: Final = "use fewer --workers, or --workers 0; then add --resume"


class FinetuneReport(Report):
    """What came out. ``before``, ``best`` and ``last`` are of the validation data.

    ``metric`` is what the best bundle is chosen by: top1 in per cent, or perplexity. ``classes``
    says how it is known which classes the head of an image classifier answers; ``notes`` are what
    the user should hear of.
    """

    run: str
    steps: int
    epochs: float
    batch_size: int
    num_ranks: int
    trained_groups: tuple[Group, ...]
    trained_parameters: int
    num_classes: int | None
    new_head: bool
    classes: HeadClasses | None
    metric: str
    before: float
    best: float
    best_step: int
    last: dict[str, float]
    skipped_samples: int
    notes: tuple[str, ...]


def finetune(
    bundle: str | Path,
    data: DataOptions,
    output: str | Path,
    options: FinetuneOptions | None = None,
    reporter: Reporter | None = None,
) -> FinetuneReport:
    """Trains a bundle's model into a new run, or goes on with one.

    Started by torchrun, ``accelerate launch`` or Slurm, it is one of several ranks.

    Raises:
        RunExists, RunDiffers, NotARun: the output cannot be used.
        DataError: the data cannot be used, or do not fit the model.
        StoppedOnRequest: a signal ended it; its state was saved.
        OptionError: among others, where a batch does not fit into the memory.
        TrainingError: it cannot go on.
    """
    options, reporter = options or FinetuneOptions(), reporter or Quiet()
    devices = open_devices(options.device)
    try:
        with explained(memory=_MEMORY_HINT, worker=_WORKER_HINT):
            return _finetune(bundle, data, RunFolder(Path(output)), options, devices, reporter)
    except (LossNotFinite, StoppedOnRequest) as error:
        if devices.is_main:
            raise
        # Every rank fails alike here; it is told once.
        raise SystemExit(error.exit_code) from None


def _finetune(
    bundle: str | Path,
    data: DataOptions,
    folder: RunFolder,
    options: FinetuneOptions,
    devices: Devices,
    reporter: Reporter,
) -> FinetuneReport:
    setup = devices.alike(lambda: set_up(bundle, data, folder, options, devices))
    if not setup.going_on:
        if options.resume:
            reporter.note("there is no run to resume yet, so a new one is started")
        devices.first(lambda: folder.create(setup.start, setup.record, setup.recipe))
    for note in setup.notes:
        reporter.note(note)
    # Only the main rank reads it again: on a network disk the others may not see it yet.
    start = devices.first(folder.open_start) or setup.start.source
    setup = replace(setup, subject=replace(setup.subject, bundle=start))
    try:
        with compiling() if setup.recipe.compile else nullcontext():
            checkpointer = carry_out(
                setup.subject, setup.recipe, setup.task, devices, folder, options.work, reporter
            )
    except KeyboardInterrupt as interrupt:
        told = str(interrupt) or "--resume goes on from the last checkpoint"
        raise KeyboardInterrupt(told) from None
    progress = checkpointer.progress
    if progress.before is not None and checkpointer.is_better(progress.before, progress.best):
        reporter.note("no evaluation was better than the one before training, of RUN/start")
    devices.first(lambda: draw_curves(folder.metrics, folder.curves))
    return _report(folder, setup, checkpointer, devices)


def _report(
    folder: RunFolder, setup: Setup, checkpointer: Checkpointer, devices: Devices
) -> FinetuneReport:
    shown = devices.first(lambda: open_bundle(folder.last).manifest.trained)
    last = devices.gather(shown)[0]
    subject, recipe, progress = setup.subject, setup.recipe, checkpointer.progress
    return FinetuneReport(
        run=str(folder.path),
        steps=progress.step,
        epochs=round(progress.step / (setup.task.sizes[0] // recipe.batch_size), 2),
        batch_size=recipe.batch_size,
        num_ranks=devices.num_ranks,
        trained_groups=subject.train,
        trained_parameters=sum(p.numel() for p in subject.model.parameters() if p.requires_grad),
        num_classes=subject.num_classes,
        new_head=subject.new_head,
        classes=setup.classes,
        metric=setup.task.metric,
        before=progress.before or 0.0,
        best=progress.best or 0.0,
        best_step=progress.best_step or 0,
        last=last.metrics if last else {},
        skipped_samples=len(progress.skipped),
        notes=(*setup.notes, *setup.task.remarks(progress.before or 0.0, subject.train)),
    )
