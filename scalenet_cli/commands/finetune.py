"""``scalenet finetune``: trains a bundle's model; what comes out is a run with bundles in it."""

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Final

from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.commands.finetune_setup import Setup, set_up
from scalenet_cli.errors import LossNotFinite, StoppedOnRequest
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.measure.ablation import without_new_blocks
from scalenet_cli.measure.new_blocks import NewBlocksReport, judge_new_blocks
from scalenet_cli.measure.strength import strength_of_new_blocks
from scalenet_cli.models.load import load_bundle
from scalenet_cli.plan.schema import Group
from scalenet_cli.reports.base import HeadClasses, Report
from scalenet_cli.tasks import find_metric, find_task
from scalenet_cli.tasks.requests import FinetuneOptions
from scalenet_cli.training.compiling import compiling
from scalenet_cli.training.contents import require_same_contents
from scalenet_cli.training.curves import draw_curves
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import READING, Devices, open_devices
from scalenet_cli.training.failures import explained
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.quiet import Quiet
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.run_training import Finished, TrainingRun, carry_out
from scalenet_cli.version import TOOL

_MEMORY_HINT: Final = (
    "a larger --accumulate with the same --batch-size, --gradient-checkpointing, or --precision "
    "bf16; for evaluation a smaller --eval-batch-size"
)
_WORKER_HINT: Final = "use fewer --workers, or --workers 0; then add --resume"


class FinetuneReport(Report):
    """What came out. ``before``, ``best`` and ``last`` are of the validation data.

    ``metric`` is what the best bundle is chosen by: top1 in per cent, or perplexity. ``new_blocks``
    is None where there are none, or where it was not asked for. ``classes`` says how it is known
    which classes the head of an image classifier answers; ``notes`` are what the user should hear
    of.
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
    new_blocks: NewBlocksReport | None
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
        OutputInUse: another command is writing there.
        DataError: the data cannot be used, or do not fit the model.
        StoppedOnRequest: a signal ended it; its state was saved.
        OptionError: among others, where a batch does not fit into the memory.
        TrainingError: it cannot go on.
    """
    options, reporter = options or FinetuneOptions(), reporter or Quiet()
    devices = open_devices(options.device)
    folder = RunFolder(Path(output))
    try:
        with ExitStack() as held, explained(memory=_MEMORY_HINT, worker=_WORKER_HINT):
            devices.run_on_main_rank(
                lambda: held.enter_context(_alone(folder, resume=options.resume))
            )
            return _finetune(
                bundle, data, folder=folder, options=options, devices=devices, reporter=reporter
            )
    except (LossNotFinite, StoppedOnRequest) as error:
        if devices.is_main:
            raise
        # Every rank fails alike here; it is told once.
        raise SystemExit(error.exit_code) from None


def _alone(folder: RunFolder, *, resume: bool) -> AbstractContextManager[None]:
    """The lock of a run, where one may be made or resumed."""
    going_on = resume and folder.exists()
    if not going_on:
        folder.require_absent()
    return sole_writer(folder.path, in_place=going_on)


def _finetune(
    bundle: str | Path,
    data: DataOptions,
    folder: RunFolder,
    options: FinetuneOptions,
    devices: Devices,
    reporter: Reporter,
) -> FinetuneReport:
    setup = devices.run_on_all_ranks(
        lambda: set_up(bundle, data, folder=folder, options=options, devices=devices)
    )
    devices.require_same(_facts(setup, options))
    _announce(setup, options, reporter, digest=data.digest)
    looked = devices.run_on_main_rank(
        lambda: _look_and_create(setup, folder, read=data.digest), patience=READING
    )
    for note in looked or ():
        reporter.note(note)
    # Of a run that goes on, they were told when it began; the report has them again.
    for note in () if setup.going_on else setup.notes:
        reporter.note(note)
    # Only the main rank reads it again: on a network disk the others may not see it yet.
    start = devices.run_on_main_rank(folder.open_start) or setup.start.source
    setup = replace(setup, subject=replace(setup.subject, bundle=start))
    finished = _carry_out(setup, folder, options=options, devices=devices, reporter=reporter)
    checkpointer, progress = finished.checkpointer, finished.checkpointer.progress
    if progress.before is not None and checkpointer.is_better(progress.before, progress.best):
        reporter.note(
            f"no evaluation was better than the one before training, which is of {folder.start}"
        )
    devices.run_on_main_rank(
        lambda: draw_curves(folder.metrics, folder.curves, find_metric(setup.task.metric))
    )
    return _report(folder, setup, finished, devices)


def _announce(setup: Setup, options: FinetuneOptions, reporter: Reporter, *, digest: bool) -> None:
    if options.resume and not setup.going_on:
        reporter.note("there is no run to resume yet, so a new one is started")
    if digest:
        reporter.note("--data-digest: all images are read once before the run goes on")


def _carry_out(
    setup: Setup, folder: RunFolder, options: FinetuneOptions, devices: Devices, reporter: Reporter
) -> Finished:
    run = TrainingRun(
        subject=setup.subject,
        recipe=setup.recipe,
        task=setup.task,
        devices=devices,
        folder=folder,
        work=options.work,
        reporter=reporter,
        ablation=_ablation(setup, options),
    )
    try:
        with compiling() if setup.recipe.compile else nullcontext():
            return carry_out(run)
    except KeyboardInterrupt as interrupt:
        advice = str(interrupt) or "--resume goes on from the last checkpoint"
        raise KeyboardInterrupt(advice) from None


def _ablation(setup: Setup, options: FinetuneOptions) -> AbstractContextManager[None] | None:
    subject = setup.subject
    if not options.ablation or not subject.layout.num_new:
        return None
    return without_new_blocks(subject.model, subject.layout)


def _judge(folder: RunFolder, setup: Setup, finished: Finished) -> NewBlocksReport | None:
    """What new blocks are worth in the last bundle."""
    if finished.ablated is None:
        return None
    last = load_bundle(folder.last, check=False)
    assert last.bundle.manifest.trained is not None
    metric = find_task(last.family.task).metrics[0]
    return judge_new_blocks(
        last.layout.num_new,
        strength_of_new_blocks(last.model, last.layout),
        last.bundle.manifest.trained.metrics,
        {**finished.ablated.metrics, "val_loss": finished.ablated.loss},
        num_samples=setup.task.sizes[1],
        trained=setup.subject.train,
        accuracy=metric.name if metric.is_share else None,
    )


def _facts(setup: Setup, options: FinetuneOptions) -> dict[str, str]:
    """What has to be the same on all ranks; with other values they would train a mixture."""
    record = setup.record
    facts = {
        "version": TOOL,
        "run": "one to resume" if setup.going_on else "none yet",
        "bundle": record.bundle,
        "--sharding": options.work.sharding,
        "--no-ablation": str(not options.ablation),
        "new head": str(record.new_head),
    }
    for name, split in (("training", record.train), ("validation", record.val)):
        facts |= {f"{name} samples": f"{split.num_samples:,}", f"{name} data": split.digest}
    return facts | {f"recipe {key}": str(value) for key, value in setup.recipe}


def _look_and_create(setup: Setup, folder: RunFolder, *, read: bool) -> tuple[str, ...]:
    """The run's folder is there, and the images are those that it began with; returns notes.

    Raises:
        RunDiffers, ImageUnreadable, OutputUnwritable: see there.
    """
    look = setup.look
    if not setup.going_on:
        contents = None if look is None else look(read)
        record = setup.record.model_copy(update={"contents": contents})
        folder.create(setup.start, record, setup.recipe)
    elif look is not None:
        old = folder.record().contents
        return require_same_contents(old, look, read=read, where=folder.path)
    return ()


def _report(
    folder: RunFolder, setup: Setup, finished: Finished, devices: Devices
) -> FinetuneReport:
    shown = devices.run_on_main_rank(lambda: open_bundle(folder.last).manifest.trained)
    last = devices.gather(shown)[0]
    judged = devices.run_on_main_rank(lambda: _judge(folder, setup, finished))
    subject, recipe, progress = setup.subject, setup.recipe, finished.checkpointer.progress
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
        new_blocks=devices.gather(judged)[0],
        notes=(*setup.notes, *setup.task.remarks(progress.before or 0.0, subject.train)),
    )
