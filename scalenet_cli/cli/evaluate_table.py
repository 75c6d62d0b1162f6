"""How an evaluation looks: numbers on stdout, a progress bar on a terminal's stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from scalenet_cli.commands.evaluate import EvalReport, Progress

_SHOWN = 20


def show(facts: "EvalReport") -> None:
    """Numbers, and the images that were left out."""
    processes = f", {facts.num_processes} processes" if facts.num_processes > 1 else ""
    typer.echo(
        f"{facts.architecture} on {facts.data}: {facts.precision} on {facts.device}{processes}"
    )
    rows = [
        ("images", f"{facts.num_images:,}"),
        ("top-1", f"{facts.top1:.2f} %  ({facts.correct1:,} images)"),
        ("top-5", f"{facts.top5:.2f} %  ({facts.correct5:,} images)"),
        ("loss", f"{facts.loss:.4f}"),
        ("corrupt", f"{facts.num_corrupt:,}"),
        ("images per second", f"{facts.images_per_second:,.1f}"),
    ]
    for name, value in rows:
        typer.echo(f"{name:<18} {value}")
    for image in facts.corrupt[:_SHOWN]:
        typer.echo(f"corrupt: {_printable(image.name)}: {_printable(image.reason)}")
    if len(facts.corrupt) > _SHOWN:
        typer.echo(f"corrupt: {len(facts.corrupt) - _SHOWN} more; --json lists them all")
    for name in facts.files:
        typer.echo(f"written to {name}")


def _printable(text: str) -> str:
    """Names of files, and what decoders say of them, may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def progress() -> "Iterator[Progress | None]":
    """A bar where stderr is a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress as Bar

    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("batches", total=None)

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tick
