"""How a diagnosis looks: a table per kind of number on stdout, bars on a terminal's stderr."""

from typing import TYPE_CHECKING

import typer

from scalenet_cli.cli.render import table

if TYPE_CHECKING:
    from scalenet_cli.diagnosis.report import (
        BlockPlace,
        DiagnoseReport,
        ModelReport,
        ScoreReport,
    )


def show(facts: "DiagnoseReport", output: str) -> None:
    """Scores, gradients by source block, what single blocks do, and the files."""
    from scalenet_cli.tasks import task_judged_by

    unit = task_judged_by(facts.metric).sample_unit
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
    table(("source block", "gradient norm", "of each instance alone"), rows)


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
    table(("block", "source", "skipped", "without adapters", "adapter / core"), rows)


def _key(block: "BlockPlace") -> tuple[int, int]:
    return block.stage, block.position


def _score(score: "ScoreReport", facts: "DiagnoseReport") -> str:
    from scalenet_cli.tasks import find_metric

    metric = find_metric(facts.metric)
    form = ".2f" if metric.is_share else ".5g"
    return f"{metric.label} {metric.shown(score.value(metric.name), form)}"
