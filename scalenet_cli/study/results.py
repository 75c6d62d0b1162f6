"""What a study found: results.json, which repeats; times, which do not; a table for people."""

import json
from collections.abc import Callable, Sequence

from scalenet_cli.files.output_parts import RESULTS, STUDY_TIMINGS, TABLE
from scalenet_cli.reports.amounts import amount
from scalenet_cli.reports.base import Report
from scalenet_cli.reports.spread import SeedSpread, spread_over, spread_text
from scalenet_cli.study.arms import Arm, ArmCost
from scalenet_cli.study.folder import (
    Cell,
    Outcome,
    StudyFolder,
    evaluations,
    training_seconds,
)
from scalenet_cli.tasks import find_metric


class CellResult(Report):
    """One finished cell. ``curve`` has epoch and metric of every evaluation."""

    seed: int
    outcome: Outcome
    curve: tuple[tuple[float, float], ...]


class ArmResult(Report):
    """One arm: its cost, its cells, and the metric over those that did not diverge."""

    cost: ArmCost
    cells: tuple[CellResult, ...]
    before: SeedSpread | None = None
    best: SeedSpread | None = None
    last: SeedSpread | None = None
    num_diverged: int = 0
    missing_seeds: tuple[int, ...] = ()


class StudyResults(Report):
    """All arms in the order of the study; the same bytes however often it was interrupted."""

    version: int = 1
    title: str | None = None
    metric: str
    larger_is_better: bool
    source: str
    arms: tuple[ArmResult, ...]


def gather(
    folder: StudyFolder,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    *,
    title: str | None,
    source: str,
    metric: str,
    larger_is_better: bool,
) -> StudyResults:
    """The results of all cells that are finished."""
    return StudyResults(
        title=title,
        metric=metric,
        larger_is_better=larger_is_better,
        source=source,
        arms=tuple(_arm_result(folder, arm, seeds, metric) for arm in arms),
    )


def write_results(
    folder: StudyFolder, results: StudyResults, arms: Sequence[Arm]
) -> tuple[str, ...]:
    """The results, the table and the times, in the order of their worth; returns their names."""
    folder.write(RESULTS, results.model_dump_json(indent=1) + "\n")
    times = _times(folder, results, arms)
    folder.write(TABLE, markdown(results, times))
    folder.write(STUDY_TIMINGS, json.dumps({"training_seconds": times}, indent=1) + "\n")
    return RESULTS, TABLE, STUDY_TIMINGS


def _arm_result(folder: StudyFolder, arm: Arm, seeds: Sequence[int], metric: str) -> ArmResult:
    cells, missing = [], []
    for seed in seeds:
        cell = Cell(arm, seed)
        outcome = folder.outcome(cell)
        if outcome is None:
            missing.append(seed)
            continue
        curve = tuple(evaluations(folder.run(cell), metric))
        cells.append(CellResult(seed=seed, outcome=outcome, curve=curve))
    whole = [cell.outcome for cell in cells if cell.outcome.diverged is None]
    return ArmResult(
        cost=arm.cost,
        cells=tuple(cells),
        before=spread_over([o.before for o in whole]),
        best=spread_over([o.best for o in whole]),
        last=spread_over([o.last for o in whole]),
        num_diverged=len(cells) - len(whole),
        missing_seeds=tuple(missing),
    )


def _times(
    folder: StudyFolder, results: StudyResults, arms: Sequence[Arm]
) -> dict[str, dict[str, float]]:
    """Of the cells that did not diverge, as all that is averaged."""
    times: dict[str, dict[str, float]] = {}
    for arm, result in zip(arms, results.arms, strict=True):
        for cell in result.cells:
            if cell.outcome.diverged is not None:
                continue
            run = folder.run(Cell(arm, cell.seed))
            seconds = training_seconds(run, arm.cost.batch_size)
            if seconds is not None:
                times.setdefault(arm.name, {})[str(cell.seed)] = seconds
    return times


def markdown(results: StudyResults, times: dict[str, dict[str, float]]) -> str:
    """The table, in the order of the study."""
    unit = results.arms[0].cost.unit
    name = find_metric(results.metric).title
    columns: list[tuple[str, Callable[[ArmResult], str]]] = [
        ("arm", lambda a: a.cost.name),
        ("before", lambda a: spread_text(a.before)),
        ("best", lambda a: spread_text(a.best)),
        ("last", lambda a: spread_text(a.last)),
        ("seeds", _seeds),
        ("blocks", lambda a: f"{a.cost.blocks}"),
        ("parameters, M", lambda a: f"{a.cost.stored / 1e6:.3f}"),
        ("trained, M", lambda a: f"{a.cost.trainable / 1e6:.3f}"),
        ("MACs", lambda a: amount(a.cost.macs)),
        ("training FLOPs", lambda a: amount(a.cost.total_train_flops)),
        ("steps", lambda a: f"{a.cost.steps:,}"),
        ("training, s", lambda a: _time(times.get(a.cost.name, {}))),
    ]
    rows = [[show(arm) for _, show in columns] for arm in results.arms]
    lines = [
        f"# {results.title or results.source}",
        "",
        *((f"Source: `{results.source}`.", "") if results.title else ()),
        f"{name}: mean +- sample standard deviation over seeds, of the validation data. MACs of "
        f"one input of {results.arms[0].cost.input_size} {unit}; training FLOPs are of all "
        "steps, forward and backward; times are of the steps alone.",
        "",
        f"| {' | '.join(title for title, _ in columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]
    notes = _diverged(results)
    return "\n".join([*lines, *([""] if notes else []), *notes]) + "\n"


def _diverged(results: StudyResults) -> list[str]:
    return [
        f"- `{arm.cost.name}` seed {cell.seed} diverged: {cell.outcome.diverged}"
        for arm in results.arms
        for cell in arm.cells
        if cell.outcome.diverged is not None
    ]


def _seeds(arm: ArmResult) -> str:
    done = len(arm.cells)
    text = f"{done}" if not arm.missing_seeds else f"{done} of {done + len(arm.missing_seeds)}"
    return text + (f", {arm.num_diverged} diverged" if arm.num_diverged else "")


def _time(seconds: dict[str, float]) -> str:
    return f"{sum(seconds.values()) / len(seconds):.1f}" if seconds else "-"
