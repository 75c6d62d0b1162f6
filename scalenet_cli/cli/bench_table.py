"""How a bench looks: tables on stdout, a progress bar on a terminal's stderr."""

from typing import TYPE_CHECKING

import typer

from scalenet_cli.cli.render import table

if TYPE_CHECKING:
    from scalenet_cli.benchmark.report import BenchReport, PassReport
    from scalenet_cli.reports.spread import Spread


def show(facts: "BenchReport") -> None:
    """One table of times and memory and one of ratios, for each kind of pass."""
    compiled = ", compiled" if facts.compiled else ""
    layout = ", channels last" if facts.channels_last else ""
    count = f", {facts.threads} thread{'s' * (facts.threads > 1)}"
    threads = count if facts.device == "cpu" else ""
    typer.echo(
        f"{facts.architecture}: batches of {facts.batch_size} x {facts.input_size} {facts.unit}, "
        f"{facts.precision}{compiled}{layout}, on {facts.device} ({facts.device_name}{threads})"
    )
    typer.echo(
        f"median (min..max) of {facts.repeats} rounds; a round runs each variant once; 1 MB = 10^6"
    )
    if facts.inference is not None:
        _show_pass("inference", facts.inference)
    if facts.training is not None:
        _show_pass("training step", facts.training)


def _show_pass(title: str, facts: "PassReport") -> None:
    training = title != "inference"
    table(
        (title, "trained" if training else "stored", "ms", "samples/s", "GFLOPs/sample"),
        [
            (
                row.name,
                f"{row.trainable if training else row.stored:,}",
                _spread(row.seconds, 1, 1e3),
                f"{row.samples_per_second.median:,.1f}",
                f"{row.flops / 1e9:,.2f}" if row.flops > 1e9 else f"{row.flops / 1e9:.3g}",
            )
            for row in facts.variants
        ],
    )
    table(*_memory(facts, training))
    if facts.ratios:
        table(
            ("ratio", "time", "FLOPs", "memory"),
            [
                (
                    f"{row.variant} / {row.reference}",
                    _spread(row.time, 2),
                    f"{row.flops:.2f}",
                    f"{row.memory:.2f}",
                )
                for row in facts.ratios
            ],
        )


def _memory(facts: "PassReport", training: bool) -> tuple[list[str], list[list[str]]]:
    """Columns and rows; only training has parts to add up, and only CUDA has a peak."""
    columns = ["memory in MB", "model"]
    rows = []
    for row in facts.variants:
        memory = row.memory
        parts = [memory.parameter_bytes + memory.buffer_bytes]
        if training:
            parts += [memory.gradient_bytes, memory.optimizer_bytes]
            parts += [memory.saved_activation_bytes, memory.accounted_bytes]
        if memory.peak_bytes is not None:
            parts.append(memory.peak_bytes)
        rows.append([row.name, *(f"{part / 1e6:,.1f}" for part in parts)])
    columns += ["gradients", "AdamW", "activations", "sum"] if training else []
    columns += ["peak"] if len(columns) < len(rows[0]) else []
    return columns, rows


def _spread(values: "Spread", digits: int, unit: float = 1.0) -> str:
    middle, low, high = (
        f"{value * unit:,.{digits}f}" for value in (values.median, values.min, values.max)
    )
    return f"{middle} ({low}..{high})"
