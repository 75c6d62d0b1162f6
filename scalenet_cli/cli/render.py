"""The only place that prints: reports to stdout, notes to stderr."""

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeVar

import typer

from scalenet_cli.cli.picture import draw_layout

if TYPE_CHECKING:
    from rich.console import Console

    from scalenet_cli.commands.expand_report import ExpandReport
    from scalenet_cli.commands.finetune import FinetuneReport
    from scalenet_cli.commands.inspection import CheckReport, InspectReport
    from scalenet_cli.commands.recipes import RecipeList
    from scalenet_cli.commands.verify import VerifyReport
    from scalenet_cli.measure.new_blocks import NewBlocksReport
    from scalenet_cli.quickstart import QuickstartReport
    from scalenet_cli.reports.base import FlopReport, ParameterReport, Report
    from scalenet_cli.reports.metrics import Metric

R = TypeVar("R", bound="Report")


def report(facts: R, show: Callable[[R], None], *, as_json: bool) -> None:
    """A report as JSON, or as its own kind of text."""
    if as_json:
        typer.echo(facts.model_dump_json(indent=2))
    else:
        show(facts)


def notes(lines: Iterable[str]) -> None:
    """Decisions that the user should hear of."""
    for line in lines:
        typer.echo(f"note: {line}", err=True)


def text(content: str) -> None:
    """A file as it stands."""
    typer.echo(content, nl=not content.endswith("\n"))


def parameters(facts: "ParameterReport") -> None:
    """Groups and totals."""
    rows = [
        (name, count, facts.executed_groups[name], facts.trainable_groups[name])
        for name, count in facts.groups.items()
        if count
    ]
    rows.append(("total", facts.stored, facts.executed, facts.trainable))
    table(("parameters", "stored", "executed", "trainable"), rows)


def flops(facts: "FlopReport") -> None:
    """Instances and totals."""
    table(
        ("stage", "position", "source", "use", "MACs", "FLOPs"),
        [
            (
                str(row.stage),
                str(row.position),
                str(row.source),
                str(row.ordinal),
                row.macs,
                row.flops,
            )
            for row in facts.instances
        ],
    )
    rows = [
        ("blocks", facts.macs - facts.outside_macs, facts.flops - facts.outside_flops),
        ("outside blocks", facts.outside_macs, facts.outside_flops),
        ("total", facts.macs, facts.flops),
    ]
    table((f"one input of {facts.input_size} {facts.unit}", "MACs", "FLOPs"), rows)


def finetuned(facts: "FinetuneReport") -> None:
    """Before, after, and where the bundles are."""
    typer.echo(
        f"{_counted(facts.steps, 'step')}, {_counted(facts.epochs, 'epoch')}, "
        f"batch {facts.batch_size}, {_counted(facts.num_ranks, 'device')}; "
        f"trained {', '.join(facts.trained_groups)}: {facts.trained_parameters:,} parameters"
    )
    from scalenet_cli.tasks import find_metric

    metric = find_metric(facts.metric)
    typer.echo(f"{metric.label} before  {metric.shown(facts.before)}")
    typer.echo(f"{metric.label} best    {metric.shown(facts.best)}  (step {facts.best_step:,})")
    typer.echo(f"{metric.label} last    {metric.shown(facts.last.get(facts.metric, 0.0))}")
    if facts.new_blocks is not None:
        _new_blocks(facts.new_blocks, metric)
    if facts.skipped_samples:
        typer.echo(f"{facts.skipped_samples} damaged samples were skipped")
    typer.echo(f"\n{facts.run}/best and {facts.run}/last are bundles; curves.png, metrics.jsonl")
    typer.echo(f"next:  scalenet eval {facts.run} --data DATA")


def _new_blocks(facts: "NewBlocksReport", metric: "Metric") -> None:
    """What the new blocks are worth, and what to do where that is nothing."""
    last, without = facts.scores, facts.scores_without
    with_them, alone = (metric.shown(scores[metric.name]) for scores in (last, without))
    typer.echo(
        f"without the {facts.num_blocks} new blocks  {metric.label} {alone}, loss "
        f"{without['val_loss']:.4f} (last: {with_them}, {last['val_loss']:.4f})"
    )
    if facts.mean_gate is not None:
        typer.echo(f"  mean absolute gate of new blocks: {facts.mean_gate:.3g}")
    if facts.adapter_ratio is not None:
        share = 100 * facts.adapter_ratio
        typer.echo(f"  norm of their adapters: {share:.3g} % of that of the weights beside them")
    if facts.advice is not None:
        typer.echo(f"  {facts.advice}")


def _counted(number: float, noun: str) -> str:
    shown = f"{number:,}" if isinstance(number, int) else f"{number:g}"
    return f"{shown} {noun}{'' if number == 1 else 's'}"


def inspection(facts: "InspectReport") -> None:
    """Stages, picture and totals."""
    typer.echo(f"{facts.architecture}  (family {facts.family})")
    table(
        ("stage", "path", "width", "blocks", "scaled", "reused blocks"),
        [
            (
                str(index),
                stage.path,
                stage.width,
                stage.depth,
                stage.scaled_depth,
                _runs(stage.scope),
            )
            for index, stage in enumerate(facts.stages)
        ],
    )
    for line in draw_layout(facts.stages, _width(), _unicode()):
        typer.echo(line)
    typer.echo(f"Linears of a block: {', '.join(facts.linears)}")
    if facts.tied_tensors:
        typer.echo(f"tied tensors: {facts.tied_tensors}")
    parameters(facts.parameters)


def check(facts: "CheckReport") -> None:
    """One line."""
    line = "the plan is valid"
    if facts.target is not None:
        line += f" and fits {facts.target}: {facts.blocks} blocks ({facts.new_blocks} new), "
        line += f"{facts.stored:,} stored parameters"
    typer.echo(line)


def expand(facts: "ExpandReport") -> None:
    """Before and after, and what was or would be written."""
    table(
        ("", "source", "scaled"),
        [
            ("blocks", facts.blocks - facts.new_blocks, facts.blocks),
            ("stored parameters", facts.source_parameters, facts.parameters.stored),
            ("executed parameters", "", facts.parameters.executed),
            ("trainable parameters", "", facts.parameters.trainable),
            (f"MACs at {facts.flops.input_size} {facts.flops.unit}", "", facts.flops.macs),
            ("bytes of tensors", facts.source_bytes, facts.bundle_bytes),
        ],
    )
    if facts.written:
        typer.echo(f"written to {facts.output}")
        return
    table(
        ("memory estimate", "bytes"),
        [
            ("expand: largest tensor, beside the libraries", facts.largest_tensor_bytes),
            ("weights in memory", facts.bundle_bytes),
            ("weights, gradients, AdamW", facts.training_state_bytes),
        ],
    )
    typer.echo(f"dry run: {facts.output} was not written")


def verification(facts: "VerifyReport") -> None:
    """What holds."""
    typer.echo(f"digests   {facts.num_tensors} tensors, {facts.checked_bytes:,} bytes")
    typer.echo(
        f"ties      {facts.tie_groups} tensors under {facts.tied_keys} keys, one object each"
    )
    compared = facts.compared_with or f"the digest of {facts.source}"
    if facts.base_trained:
        typer.echo(f"base      trained: no longer that of {facts.source}")
    else:
        typer.echo(f"base      equal to {compared}, bit for bit")
    typer.echo(f"{facts.bundle} holds")


def recipe_list(facts: "RecipeList") -> None:
    """One row per recipe: plans, then how to train, then studies."""
    table(
        ("recipe", "source", "stored", "what it is"),
        [(r.name, r.source, r.stored if r.stored else "", r.title) for r in facts.recipes],
    )
    table(("training recipe", "what it is"), [(r.name, r.title) for r in facts.training])
    table(
        ("study", "source", "arms", "what it is"),
        [(r.name, r.source, len(r.arms), r.title) for r in facts.studies],
    )


def quickstart(facts: "QuickstartReport") -> None:
    """The story: the picture, the proof, a table, a curve."""
    from scalenet_cli.tasks import find_metric

    for line in draw_layout(facts.layout.stages, _width(), _unicode()):
        typer.echo(line)
    verification(facts.verification)
    before, after = facts.base_parameters, facts.parameters
    table(
        ("Fashion-MNIST ViT", "source", "scaled", "finetuned"),
        [
            ("blocks", len(before.instances), *[len(after.instances)] * 2),
            ("stored parameters", before.stored, *[after.stored] * 2),
            ("MACs per image", facts.base_flops.macs, *[facts.flops.macs] * 2),
            (
                f"top-1 of {facts.num_images:,} images, %",
                *(f"{top1:.2f}" for top1 in (facts.base_top1, facts.before_top1, facts.after_top1)),
            ),
        ],
    )
    if facts.new_blocks is not None:
        _new_blocks(facts.new_blocks, find_metric("top1"))
    for epoch, top1 in facts.curve:
        low = min(value for _, value in facts.curve)
        typer.echo(f"epoch {epoch:4.1f}  {top1:6.2f} %  {'#' * round(1 + 10 * (top1 - low))}")
    typer.echo(f"\n{facts.output} is a run: best/, last/, metrics.jsonl, curves.png")
    typer.echo(f"next:  scalenet inspect {facts.output}\n       scalenet flops {facts.output}")
    typer.echo("       scalenet recipes")


def _runs(numbers: Sequence[int]) -> str:
    """Block numbers, with runs shortened: 0-11."""
    if not numbers:
        return "-"
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | int]], left: int = 0) -> None:
    """Cells under their columns' names; whole numbers, and all after the first ``left``, right.

    Without ``left`` only columns of whole numbers are.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    numeric = [any(isinstance(row[i], int) for row in rows) for i in range(len(columns))]
    if left:
        numeric = [order >= left for order in range(len(columns))]
    drawn = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, right in zip(columns, numeric, strict=True):
        drawn.add_column(name, justify="right" if right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(f"{cell:,}" if isinstance(cell, int) else cell for cell in row))
    console().print(drawn)


def console() -> "Console":
    """Prints to stdout, in colours and to the width of a terminal only where there is one."""
    from rich.console import Console

    class PipeConsole(Console):
        """Leaves a reader that went away to the error boundary; rich would exit with status 1."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    # In a pipe nothing is cut to a terminal's width that does not exist.
    return PipeConsole(width=None if sys.stdout.isatty() else 160, highlight=False, markup=False)


def _width() -> int:
    return console().width if sys.stdout.isatty() else 160


def _unicode() -> bool:
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
