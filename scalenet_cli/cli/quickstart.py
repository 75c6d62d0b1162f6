"""``scalenet quickstart``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Json


def quickstart(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="The bundle's folder.")
    ] = "scalenet-quickstart",
    as_json: Json = False,
) -> None:
    """Expand a small real checkpoint that ships with scalenet: count, draw, verify. Offline."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.quickstart import quickstart as run

    report = run(output)
    render.report(report, render.quickstart, as_json=as_json)
