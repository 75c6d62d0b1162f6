"""``scalenet compare``: arms of one source side by side, over seeds, in a folder that resumes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import yaml

from scalenet_cli.bundle.reports import Report
from scalenet_cli.commands.study.arms import Arm, ArmBuilder, ArmCost
from scalenet_cli.commands.study.cells import CellOptions
from scalenet_cli.commands.study.data import TaskMaker, data_options, open_study_source
from scalenet_cli.commands.study.folder import STUDY, Cell, StudyFolder, require_same, resolved
from scalenet_cli.commands.study.jobs import (
    StudyReporter,
    choose_devices,
    run_in_turn,
    run_side_by_side,
)
from scalenet_cli.commands.study.plots import draw_plots
from scalenet_cli.commands.study.results import StudyResults, gather, write_results
from scalenet_cli.errors import OptionError, StoppedOnRequest
from scalenet_cli.plan.load_study import StudyDocument, load_study
from scalenet_cli.training.devices import open_devices
from scalenet_cli.training.session import Work
from scalenet_cli.training.task import Scores


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
    """The plan of a study, and its results where it was carried out."""

    study: str
    output: str
    written: bool
    metric: str
    seeds: tuple[int, ...]
    arms: tuple[ArmCost, ...]
    total_train_flops: int
    results: StudyResults | None
    notes: tuple[str, ...]


@final
class Silent:
    """A reporter for library use: nothing is shown."""

    def began(self, cell: str, order: int, num_cells: int, seconds_left: float | None) -> None:
        """See StudyReporter."""

    def planned(self, report: CompareReport) -> None:
        """See PlanReporter."""

    def started(self, first_step: int, last_step: int) -> None:
        """See Reporter."""

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """See Reporter."""

    def note(self, text: str) -> None:
        """See Reporter."""


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
        StoppedOnRequest: a signal; the state was saved, and the same command goes on.
    """
    options, reporter = options or CompareOptions(), reporter or Silent()
    document = load_study(study).replaced(source=options.source, data=options.data)
    _check_options(document, options)
    planned = _plan(document, options)
    folder = StudyFolder(Path(output))
    left = require_same(folder, planned.resolved)
    report = _report(study, output, document, planned, left, dry_run=dry_run)
    if dry_run:
        return report
    reporter.planned(report)
    folder.write(STUDY, yaml.safe_dump(planned.resolved, sort_keys=False))
    _run(folder, _cells(document, planned.arms, options.only), planned.cells, options, reporter)
    results = _results(folder, document, planned)
    return report.model_copy(update={"results": results})


@dataclass(frozen=True, slots=True)
class _Planned:
    """All that is decided before anything is written; ``resolved`` is the study written out."""

    arms: tuple[Arm, ...]
    resolved: dict[str, Any]
    cells: CellOptions
    larger_is_better: bool


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
        output=str(output),
        written=not dry_run,
        metric=planned.cells.metric,
        seeds=seeds,
        arms=costs,
        total_train_flops=sum(cost.total_train_flops for cost in costs) * len(seeds),
        results=None,
        notes=(note,) if left else (),
    )


def _check_options(document: StudyDocument, options: CompareOptions) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise OptionError(
            "compare was started as one of several ranks, but each cell runs on one device",
            hint="start it once, with --jobs for several GPUs",
        )
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
        data_options(document),
        data.num_classes,
        data.reset_head,
        task.metric,
        options.device,
        options.work,
    )
    return _Planned(arms, resolved(document, arms, source.digest()), cells, task.larger_is_better)


def _cells(document: StudyDocument, arms: Sequence[Arm], only: Sequence[str]) -> list[Cell]:
    """Seed by seed, so that an unfinished study has something of every arm."""
    chosen = [arm for arm in arms if not only or arm.name in only]
    return [Cell(arm, seed) for seed in document.study.seeds for arm in chosen]


def _run(
    folder: StudyFolder,
    cells: Sequence[Cell],
    how: CellOptions,
    options: CompareOptions,
    reporter: StudyReporter,
) -> None:
    waiting = [cell for cell in cells if folder.outcome(cell) is None]
    if len(waiting) < len(cells):
        reporter.note(f"{len(cells) - len(waiting)} of {len(cells)} cells are finished already")
    try:
        if options.jobs == 1 or len(waiting) < 2:
            run_in_turn(folder, waiting, how, reporter)
        else:
            devices = choose_devices(options.jobs, options.device)
            run_side_by_side(folder, waiting, how, reporter, devices)
    except StoppedOnRequest as error:
        error.hint = "the same command goes on from there"
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command goes on with what is left") from None
    folder.forget_bundles()


def _results(folder: StudyFolder, document: StudyDocument, planned: _Planned) -> StudyResults:
    results = gather(
        folder,
        planned.arms,
        document.study.seeds,
        source=document.study.source,
        metric=planned.cells.metric,
        larger_is_better=planned.larger_is_better,
    )
    write_results(folder, results, planned.arms)
    draw_plots(results, folder.path)
    return results
