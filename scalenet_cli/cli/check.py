"""``scalenet check``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Arch, Json, ModelKwargs, source_options


def check(
    plan: Annotated[str, typer.Argument(metavar="PLAN", help="A plan file or a recipe's name.")],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="TARGET", help="Check it against this model as well."),
    ] = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    as_json: Json = False,
) -> None:
    """Check a plan; report every mistake with file and line."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.inspection import check_plan

    report = check_plan(plan, against=against, options=source_options(arch, model_kwargs))
    render.notes(report.notes)
    render.report(report, render.check, as_json=as_json)
