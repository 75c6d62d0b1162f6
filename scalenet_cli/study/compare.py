"""``scalenet compare``: arms of one source side by side, over seeds, in a folder that resumes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

from scalenet_cli.errors import OptionError, StoppedOnRequest
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import STUDY
from scalenet_cli.plan.load_study import StudyDocument, load_study
from scalenet_cli.plan.yaml_text import dump_yaml
from scalenet_cli.reports.base import Report
from scalenet_cli.study.arms import Arm, ArmBuilder, ArmCost
from scalenet_cli.study.cells import CellOptions
from scalenet_cli.study.data import (
    DataRecord,
    TaskMaker,
    data_options,
    open_study_source,
)
from scalenet_cli.study.folder import (
    Cell,
    StudyFolder,
    require_idle,
    require_same,
    resolved,
    with_kept_arms,
)
from scalenet_cli.study.jobs import choose_devices, run_in_turn, run_side_by_side
from scalenet_cli.study.plots import draw_plots
from scalenet_cli.study.progress import StudyReporter
from scalenet_cli.study.results import StudyResults, gather, write_results
from scalenet_cli.study.same_data import require_same_data
from scalenet_cli.training.devices import open_devices
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.quiet import Quiet
from scalenet_cli.training.run_training import Work
from scalenet_cli.training.world import require_single


@dataclass(frozen=True, slots=True)
class CompareOptions:
    """How a study is carried out: nothing here changes its results beyond rounding.

    ``source`` and ``data`` take the place of the study's own; ``only`` names the arms to train
    now; ``jobs`` are cells side by side, each on a device of its own.
    """

    source: str | None = None
    data: str | None = None
    only: tuple[str, ...] = ()
    jobs: int = 1
    device: str = "auto"
    work: Work = field(default_factory=Work)


class CompareReport(Report):
    """The plan of a study, and where it was carried out its results and the ``files`` of them."""

    study: str
    title: str | None
    output: str
    written: bool
    metric: str
    seeds: tuple[int, ...]
    arms: tuple[ArmCost, ...]
    total_train_flops: int
    results: StudyResults | None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...]


@final
class Silent:
    """A reporter for library use: nothing is shown."""

    def planned(self, report: CompareReport) -> None:
        """See CompareReporter."""

    def began(self, cell: str, order: int, num_cells: int, seconds_left: float | None) -> Reporter:
        """See StudyReporter."""
        return Quiet()

    def left(self, seconds: float) -> None:
        """See StudyReporter."""

    def note(self, text: str) -> None:
        """See StudyReporter."""


class CompareReporter(StudyReporter, Protocol):
    """Hears of the plan, too."""

    def planned(self, report: CompareReport) -> None:
        """What will be done, before anything is."""
        ...


def compare(
    study: str | Path,
    output: str | Path,
    options: CompareOptions | None = None,
    reporter: CompareReporter | None = None,
    *,
    dry_run: bool = False,
) -> CompareReport:
    """Trains every arm with every seed, or goes on with what is not finished.

    All arms are checked against the source and the data before anything is written or trained.

    Raises:
        PlanError: the study, with file and line; an arm does not fit the source.
        CheckpointError, DataError, OptionError: source, data or an option cannot be used.
        OutputExists, RunDiffers: the output is something else, or its cells no longer apply.
        OutputUnwritable: no permission, or no room.
        OutputInUse: another command is writing there.
        StoppedOnRequest: a signal; the state was saved, and the same command goes on.
    """
    options, reporter = options or CompareOptions(), reporter or Silent()
    document = load_study(study).replaced(source=options.source, data=options.data)
    _check_options(document, options)
    planned = _plan(document, options)
    folder = StudyFolder(Path(output))
    left = _require_same(folder, document, planned)
    report = _report(study, output, document=document, planned=planned, left=left, dry_run=dry_run)
    if dry_run:
        return report
    cells = _cells(document, planned.arms, options.only)
    devices = _devices(folder, cells, options)
    with sole_writer(folder.path, in_place=True):
        require_idle(folder)
        # Once more: another command may have ended between.
        _require_same(folder, document, planned)
        reporter.planned(report)
        written = with_kept_arms(folder, planned.resolved)
        folder.write(STUDY, dump_yaml(written))
        _run(folder, cells, how=planned.cells, devices=devices, reporter=reporter)
        return report.model_copy(update=_results(folder, document, planned))


@dataclass(frozen=True, slots=True)
class _Planned:
    """All that is decided before anything is written.

    ``resolved`` is the study written out; ``data`` is by the name of the arm.
    """

    arms: tuple[Arm, ...]
    resolved: dict[str, Any]
    cells: CellOptions
    data: dict[str, DataRecord]
    larger_is_better: bool
    notes: tuple[str, ...]


def _report(
    study: str | Path,
    output: str | Path,
    document: StudyDocument,
    planned: _Planned,
    left: Sequence[str],
    *,
    dry_run: bool,
) -> CompareReport:
    """The plan of the study; ``left`` are cells that it does not name."""
    costs = tuple(arm.cost for arm in planned.arms)
    seeds = document.study.seeds
    note = f"cells that the study no longer names are left alone: {', '.join(left)}"
    return CompareReport(
        study=str(study),
        title=document.study.title,
        output=str(output),
        written=not dry_run,
        metric=planned.cells.metric,
        seeds=seeds,
        arms=costs,
        total_train_flops=sum(cost.total_train_flops for cost in costs) * len(seeds),
        results=None,
        notes=(*planned.notes, *((note,) if left else ())),
    )


def _check_options(document: StudyDocument, options: CompareOptions) -> None:
    require_single("compare", hint="start it once, with --jobs for several GPUs")
    names = [arm.name for arm in document.study.arms]
    unknown = [name for name in options.only if name not in names]
    if unknown:
        raise OptionError(
            f"--only {unknown[0]} is no arm of the study", hint=f"arms: {', '.join(names)}"
        )


def _plan(document: StudyDocument, options: CompareOptions) -> _Planned:
    source = open_study_source(document)
    devices = open_devices(options.device)
    data = document.study.data
    tasks = TaskMaker(document, source, devices, options.work)
    arms = ArmBuilder(document, source, tasks).build()
    task = tasks.make(arms[0].recipe, arms[0].name)
    cells = CellOptions(
        data=data_options(document),
        num_classes=data.num_classes,
        # Decided once: an arm from scratch knows no class names that its head could have.
        reset_head=data.reset_head or tasks.new_head,
        metric=task.metric,
        device=options.device,
        work=options.work,
    )
    return _Planned(
        arms=arms,
        resolved=resolved(document, arms, source.digest()),
        cells=cells,
        data={arm.name: tasks.record(arm.recipe) for arm in arms},
        larger_is_better=task.larger_is_better,
        notes=tasks.notes,
    )


def _require_same(
    folder: StudyFolder, document: StudyDocument, planned: _Planned
) -> tuple[str, ...]:
    """The cells that there are belong to this study and its data; returns what is left over."""
    left = require_same(folder, planned.resolved)
    require_same_data(folder, _cells(document, planned.arms), planned.data)
    return left


def _cells(document: StudyDocument, arms: Sequence[Arm], only: Sequence[str] = ()) -> list[Cell]:
    """Seed by seed, so that an unfinished study has something of every arm."""
    chosen = [arm for arm in arms if not only or arm.name in only]
    return [Cell(arm, seed) for seed in document.study.seeds for arm in chosen]


def _waiting(folder: StudyFolder, cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if folder.outcome(cell) is None]


def _devices(
    folder: StudyFolder, cells: Sequence[Cell], options: CompareOptions
) -> list[str | None]:
    """Those of cells side by side; none where one cell at a time is trained in this process.

    Raises:
        DeviceUnavailable: there are fewer than cells that could be trained at a time.
    """
    jobs = min(options.jobs, len(_waiting(folder, cells)))
    return choose_devices(jobs, options.device) if jobs > 1 else []


def _run(
    folder: StudyFolder,
    cells: Sequence[Cell],
    how: CellOptions,
    devices: Sequence[str | None],
    reporter: StudyReporter,
) -> None:
    waiting = _waiting(folder, cells)
    if len(waiting) < len(cells):
        reporter.note(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished already")
    try:
        if devices:
            run_side_by_side(folder, waiting, options=how, reporter=reporter, devices=devices)
        else:
            run_in_turn(folder, waiting, how, reporter)
    except StoppedOnRequest as error:
        error.hint = "the same command goes on from there"
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with what is left") from None
    folder.forget_bundles()


def _results(folder: StudyFolder, document: StudyDocument, planned: _Planned) -> dict[str, Any]:
    """What a report has of a study that was carried out; all of it is written.

    Raises:
        RunDiffers: the data were changed while the cells were trained.
    """
    require_same_data(folder, _cells(document, planned.arms), planned.data)
    results = gather(
        folder,
        planned.arms,
        document.study.seeds,
        title=document.study.title,
        source=document.study.source,
        metric=planned.cells.metric,
        larger_is_better=planned.larger_is_better,
    )
    files = write_results(folder, results, planned.arms)
    return {"results": results, "files": (*files, *draw_plots(results, folder.path))}
