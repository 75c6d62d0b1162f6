"""``scalenet quickstart``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Json
from scalenet_cli.files.standard_streams import outlive_readers


def quickstart(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="RUN", help="The run's folder.")
    ] = "scalenet-quickstart",
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="End the training after so many steps: a trial.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Expand, finetune, evaluate a small real checkpoint that ships with scalenet. Offline."""
    outlive_readers()
    from scalenet_cli.cli import render
    from scalenet_cli.cli.progress import TerminalReporter
    from scalenet_cli.quickstart import quickstart as run

    with TerminalReporter() as reporter:
        report = run(output, max_steps=max_steps, reporter=reporter)
    render.report(report, render.quickstart, as_json=as_json)
