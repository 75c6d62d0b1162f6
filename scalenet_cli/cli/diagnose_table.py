"""How a diagnosis looks: a table per kind of number on stdout, bars on a terminal's stderr."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from scalenet_cli.cli.render import console

if TYPE_CHECKING:
    from scalenet_cli.commands.diagnose import Progress
    from scalenet_cli.commands.diagnose_report import (
        BlockPlace,
        DiagnoseReport,
        ModelReport,
        ScoreReport,
    )


def show(facts: "DiagnoseReport", output: str) -> None:
    """Scores, gradients by source block, what single blocks do, and the files."""
    unit = "images" if facts.metric == "top1" else "sequences"
    typer.echo(f"{facts.num_samples:,} {unit} of {facts.data}, float32 on {facts.device}")
    for model in (facts.model, facts.against):
        if model is not None:
            typer.echo(f"{model.target}: {len(model.blocks)} blocks, {_score(model.score, facts)}")
            _gradients(model)
    if facts.adapters or facts.ablations:
        _instances(facts)
    if facts.files:
        typer.echo(f"written to {output}: {', '.join(facts.files)}")


def _gradients(model: "ModelReport") -> None:
    rows = [
        (
            f"{row.stage}.{row.source}",
            f"{row.norm:.4g}",
            "  ".join(f"{part.norm:.4g}" for part in row.instances),
        )
        for row in model.gradients
    ]
    _table(("source block", "gradient norm", "of each instance alone"), rows)


def _instances(facts: "DiagnoseReport") -> None:
    """One row per executed block of which something is known."""
    ratios: dict[tuple[int, int], list[str]] = {}
    for one in facts.adapters:
        ratios.setdefault(_key(one), []).append(f"{one.linear} {one.ratio:.3g}")
    known = {_key(row): row for row in facts.ablations}
    rows = []
    for block in facts.model.blocks:
        found = known.get(_key(block))
        if found is None and _key(block) not in ratios:
            continue
        rows.append(
            (
                f"{block.stage}.{block.position}",
                f"{block.source}" + "'" * block.ordinal,
                _score(found.skipped, facts) if found and found.skipped else "",
                _score(found.without_adapters, facts) if found and found.without_adapters else "",
                "  ".join(ratios.get(_key(block), [])),
            )
        )
    _table(("block", "source", "skipped", "without adapters", "adapter / core"), rows)


def _key(block: "BlockPlace") -> tuple[int, int]:
    return block.stage, block.position


def _score(score: "ScoreReport", facts: "DiagnoseReport") -> str:
    if facts.metric == "top1":
        return f"top-1 {score.top1:.2f} %"
    return f"perplexity {score.perplexity:.5g}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console().print(table)


@contextmanager
def progress() -> "Iterator[Progress | None]":
    """A bar per kind of work where stderr is a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    with Bars(console=Console(stderr=True, markup=False), transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def tick(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        yield tick
