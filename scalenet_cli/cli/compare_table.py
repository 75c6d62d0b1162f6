"""How a study looks: its plan and its results on stdout, its progress on stderr."""

import sys
from typing import TYPE_CHECKING, final

import typer

from scalenet_cli.cli.progress import TerminalReporter
from scalenet_cli.cli.render import table

if TYPE_CHECKING:
    from scalenet_cli.study.compare import CompareReport
    from scalenet_cli.study.results import StudyResults


@final
class StudyProgress:
    """A line per cell, and in each what finetune shows; see compare.CompareReporter."""

    def __init__(self, *, as_json: bool, jobs: int = 1) -> None:
        self._as_json = as_json
        # A bar says how long a cell takes; cells side by side have none.
        self._tells_left = jobs > 1 or not sys.stderr.isatty()
        self._run = TerminalReporter()

    def __enter__(self) -> "StudyProgress":
        return self

    def __exit__(self, *_: object) -> None:
        self._run.__exit__()

    def planned(self, report: "CompareReport") -> None:
        """The plan of the study; stdout has it where no JSON is to come."""
        if not self._as_json:
            plan(report)

    def began(
        self, cell: str, order: int, num_cells: int, seconds_left: float | None
    ) -> TerminalReporter:
        """One line, with the time that the rest will take."""
        self._run.__exit__()
        self._run = TerminalReporter()
        left = "" if seconds_left is None else f", about {_duration(seconds_left)} left"
        typer.echo(f"cell {order} of {num_cells}: {cell}{left}", err=True)
        return self._run

    def left(self, seconds: float) -> None:
        """One line, where no bar is drawn."""
        if self._tells_left:
            typer.echo(f"about {_duration(seconds)} left", err=True)

    def note(self, text: str) -> None:
        """One line."""
        self._run.note(text)


def show(facts: "CompareReport") -> None:
    """The plan of a dry run, or the results."""
    if facts.results is None:
        plan(facts)
        typer.echo(f"dry run: {facts.output} was not written")
        return
    results(facts.results)
    typer.echo(f"{facts.output}: {', '.join(facts.files)}, cells/")


def plan(facts: "CompareReport") -> None:
    """One row per arm: what it is, and what it costs."""
    from scalenet_cli.reports.amounts import amount

    unit = facts.arms[0].unit
    columns = (
        "arm", "blocks", "stored", "trained", f"MACs ({facts.arms[0].input_size} {unit})",
        "training FLOPs/sample", "steps", "epochs", "training FLOPs", "cost",
    )  # fmt: skip
    rows = [
        (
            arm.name if arm.like is None else f"{arm.name} (like {arm.like})",
            f"{arm.blocks} (+{arm.new_blocks})",
            f"{arm.stored:,}",
            f"{arm.trainable:,}",
            amount(arm.macs),
            amount(arm.train_flops),
            f"{arm.steps:,}",
            f"{arm.epochs:g}",
            amount(arm.total_train_flops),
            f"{arm.relative_cost:.2f}",
        )
        for arm in facts.arms
    ]
    if facts.title:
        typer.echo(facts.title)
    table(columns, rows)
    typer.echo(
        f"{len(facts.arms)} arms x {len(facts.seeds)} seeds: "
        f"{amount(facts.total_train_flops)}FLOPs of training; cost is relative to "
        f"{facts.arms[0].name}"
    )


def results(facts: "StudyResults") -> None:
    """One row per arm: mean and spread over seeds."""
    from scalenet_cli.reports.spread import spread_text
    from scalenet_cli.tasks import find_metric

    name = find_metric(facts.metric).title
    rows = []
    for arm in facts.arms:
        told = f"{len(arm.cells)}" + (f", {arm.num_diverged} diverged" if arm.num_diverged else "")
        values = (spread_text(spread) for spread in (arm.before, arm.best, arm.last))
        rows.append((arm.cost.name, *values, told, f"{arm.cost.stored:,}"))
    table((name, "before", "best", "last", "seeds", "stored"), rows)


def _duration(seconds: float) -> str:
    """Hours and minutes, or seconds of a short time.

    >>> _duration(5400), _duration(12)
    ('1 h 30 min', '12 s')
    """
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
