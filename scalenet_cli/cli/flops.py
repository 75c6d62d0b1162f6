"""``scalenet flops``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Arch, Json, ModelKwargs, OptionalPlan, Target, source_options


def flops(
    target: Target,
    plan: OptionalPlan = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input-size", metavar="N", min=1, help="Image side in pixels, or number of tokens."
        ),
    ] = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    max_macs: Annotated[
        str | None,
        typer.Option("--max-macs", metavar="N", help="Exit with status 4 above this, such as 35G."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count multiply-adds and FLOPs, in total and per block instance. No weights are read."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.count import flops as count
    from scalenet_cli.models.source_options import parse_amount, require_at_most

    if max_macs is not None:
        parse_amount(max_macs, "--max-macs")
    options = source_options(arch, model_kwargs)
    report = count(target, plan=plan, input_size=input_size, options=options)
    render.report(report, render.flops, as_json=as_json)
    require_at_most(report.macs, max_macs, "--max-macs", "multiply-adds")
