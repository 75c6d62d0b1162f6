"""``scalenet finetune``: trains a bundle's model; what comes out is a run with bundles in it."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from scalenet_cli import __version__
from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import Bundle, bundle_folder, open_bundle
from scalenet_cli.bundle.reports import Report
from scalenet_cli.commands.classes import fit_classes, image_facts, open_splits
from scalenet_cli.commands.loading import Loaded, load_bundle
from scalenet_cli.errors import LossNotFinite, OptionError, StoppedOnRequest
from scalenet_cli.measure.flops import count_flops
from scalenet_cli.measure.params import count_parameters
from scalenet_cli.plan.load_training import load_training_recipe
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.plan.training import TrainingRecipe
from scalenet_cli.training.checkpoint import RunningProgress
from scalenet_cli.training.compiling import compiling
from scalenet_cli.training.curves import draw_curves
from scalenet_cli.training.devices import Devices, open_devices
from scalenet_cli.training.failures import explained
from scalenet_cli.training.fingerprint import split_record
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.objective import check_mixup
from scalenet_cli.training.preprocessing import resolve_preprocessing
from scalenet_cli.training.quiet import Quiet
from scalenet_cli.training.run_folder import RunFolder, RunRecord
from scalenet_cli.training.session import Work, carry_out, check_batch
from scalenet_cli.training.splits import DataOptions, Split
from scalenet_cli.training.subject import Subject, fill_new_head

_MEMORY_HINT: Final = (
    "a larger --accumulate with the same --batch-size, --gradient-checkpointing, or --precision "
    "bf16; for evaluation a smaller --eval-batch-size"
)
_WORKER_HINT: Final = "use fewer --workers, or --workers 0; then add --resume"


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """What a run needs beside bundle, data and output.

    ``settings`` are recipe entries that win over those of ``recipe``, which is a file or a shipped
    name. ``num_classes`` or ``reset_head`` put a new head on the model; by default a number of
    classes that is not the model's does.
    """

    recipe: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    num_classes: int | None = None
    reset_head: bool = False
    device: str = "auto"
    work: Work = field(default_factory=Work)


class FinetuneReport(Report):
    """What came out; accuracies in per cent, of the validation data."""

    run: str
    steps: int
    epochs: float
    batch_size: int
    num_ranks: int
    trained_groups: tuple[Group, ...]
    trained_parameters: int
    num_classes: int
    new_head: bool
    before_top1: float
    best_top1: float
    best_step: int
    last: dict[str, float]
    skipped_images: int


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
    ready = devices.alike(lambda: _prepare(bundle, data, folder, options, devices))
    if not ready.going_on:
        if options.resume:
            reporter.note("there is no run to resume yet, so a new one is started")
        devices.first(lambda: folder.create(ready.source, ready.record, ready.recipe))
    recipe, train = ready.recipe, ready.train
    # Only the main rank reads it again: on a network disk the others may not see it yet.
    subject = replace(ready.subject, bundle=devices.first(folder.open_start) or ready.source)
    if subject.new_head:
        reporter.note(f"the head is new: {subject.num_classes} classes, and it is trained too")
    try:
        with compiling() if recipe.compile else nullcontext():
            checkpointer = carry_out(
                subject, recipe, train, ready.val, devices, folder, options.work, reporter
            )
    except KeyboardInterrupt as interrupt:
        told = str(interrupt) or "--resume goes on from the last checkpoint"
        raise KeyboardInterrupt(told) from None
    progress = checkpointer.progress
    if (progress.best_top1 or 0.0) < (progress.before_top1 or 0.0):
        reporter.note("no evaluation was better than the one before training, of RUN/start")
    devices.first(lambda: draw_curves(folder.metrics, folder.curves))
    return _report(folder, subject, recipe, progress, devices, len(train))


@dataclass(frozen=True, slots=True)
class _Ready:
    """All that a run needs; nothing has been written yet."""

    going_on: bool
    recipe: TrainingRecipe
    source: Bundle
    train: Split
    val: Split
    record: RunRecord
    subject: Subject


def _prepare(
    bundle: str | Path,
    data: DataOptions,
    folder: RunFolder,
    options: FinetuneOptions,
    devices: Devices,
) -> _Ready:
    """Whatever can be found wrong before a run is made or touched."""
    going_on = options.resume and folder.exists()
    if not going_on:
        folder.require_absent()
    recipe = _recipe(folder if going_on else None, options)
    source = open_bundle(bundle_folder(Path(bundle)))
    facts = image_facts(str(source.folder))
    train, val = open_splits(data, facts.channels)
    num_classes, new_head = fit_classes(
        facts, train, wanted=options.num_classes, mapped=data.class_map is not None,
        reset=options.reset_head,
    )  # fmt: skip
    record = RunRecord(
        tool=f"scalenet-cli {__version__}",
        bundle=source.manifest.digest,
        train=split_record(train),
        val=split_record(val),
        num_classes=num_classes,
        new_head=new_head,
        classes=dict(train.classes),
    )
    if going_on:
        folder.require_same(record, recipe)
    micro_batch = check_batch(recipe, len(train), devices, options.work, train.place)
    check_mixup(recipe, micro_batch)
    start = folder.start if going_on else source.folder
    subject = make_subject(start, recipe, num_classes, new_head, train.classes)
    return _Ready(going_on, recipe, source, train, val, record, subject)


def _recipe(folder: RunFolder | None, options: FinetuneOptions) -> TrainingRecipe:
    """A resumed run keeps its recipe; what is given on top must say the same."""
    reference = options.recipe
    if folder is not None and reference is None:
        reference = folder.path / "recipe.yaml"
    return load_training_recipe(reference, options.settings)


def make_subject(
    folder: Path,
    recipe: TrainingRecipe,
    num_classes: int,
    new_head: bool,
    classes: Mapping[str, int],
) -> Subject:
    """The model of a bundle with what a run has to know about it."""
    loaded = load_bundle(folder, check=True, num_classes=num_classes if new_head else None)
    if new_head:
        fill_new_head(loaded.model, loaded.groups, recipe.seed)
    return Subject(
        loaded.model,
        loaded.family,
        loaded.layout,
        loaded.groups,
        _train_set(loaded, recipe, new_head),
        loaded.base_keys,
        loaded.bundle,
        resolve_preprocessing(loaded.model),
        num_classes,
        new_head,
        classes,
        _recount(loaded) if new_head else loaded.bundle.manifest,
    )


def _train_set(loaded: Loaded, recipe: TrainingRecipe, new_head: bool) -> tuple[Group, ...]:
    """The recipe's groups, or else the plan's; a new head is always one of them."""
    present = set(loaded.groups.values())
    wanted = set(loaded.train)
    if recipe.train is not None:
        wanted = set(present) if recipe.train == "all" else set(recipe.train)
    lacking = [group for group in GROUPS if group in wanted - present]
    if lacking:
        raise OptionError(
            f"train names {lacking[0]}, but the model has no such tensors",
            hint=f"groups of this model: {', '.join(g for g in GROUPS if g in present)}",
        )
    return tuple(g for g in GROUPS if g in wanted or (new_head and g == "head"))


def _recount(loaded: Loaded) -> Manifest:
    """The manifest with the numbers of a model whose head is new."""
    size = loaded.family.default_input_size(loaded.model)
    changes = {
        "parameters": count_parameters(loaded.model, loaded.layout, loaded.groups, loaded.train),
        "flops": count_flops(loaded.model, loaded.layout, loaded.family, size),
    }
    return loaded.bundle.manifest.model_copy(update=changes)


def _report(
    folder: RunFolder,
    subject: Subject,
    recipe: TrainingRecipe,
    progress: RunningProgress,
    devices: Devices,
    num_samples: int,
) -> FinetuneReport:
    shown = devices.first(lambda: open_bundle(folder.last).manifest.trained)
    last = devices.gather(shown)[0]
    return FinetuneReport(
        run=str(folder.path),
        steps=progress.step,
        epochs=round(progress.step / (num_samples // recipe.batch_size), 2),
        batch_size=recipe.batch_size,
        num_ranks=devices.num_ranks,
        trained_groups=subject.train,
        trained_parameters=sum(p.numel() for p in subject.model.parameters() if p.requires_grad),
        num_classes=subject.num_classes,
        new_head=subject.new_head,
        before_top1=progress.before_top1 or 0.0,
        best_top1=progress.best_top1 or 0.0,
        best_step=progress.best_step or 0,
        last=last.metrics if last else {},
        skipped_images=len(progress.corrupt),
    )
