"""``scalenet count-params``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Arch, Json, ModelKwargs, OptionalPlan, Target, source_options


def count_params(
    target: Target,
    plan: OptionalPlan = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    max_params: Annotated[
        str | None,
        typer.Option(
            "--max-params", metavar="N", help="Exit with status 4 above this, such as 90M."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Count parameters: stored, executed, trainable, by group. No weights are read."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.count import count_params as count
    from scalenet_cli.models.source_options import parse_amount, require_at_most

    if max_params is not None:
        parse_amount(max_params, "--max-params")
    report = count(target, plan=plan, options=source_options(arch, model_kwargs))
    render.report(report, render.parameters, as_json=as_json)
    require_at_most(report.stored, max_params, "--max-params", "stored parameters")
