"""``scalenet verify``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import (
    Arch,
    Bundle,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Strict,
    source_options,
)


def verify(
    bundle: Bundle,
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="CHECKPOINT", help="Compare the base with this one."),
    ] = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Check digests and ties, and that the source is still inside, bit for bit."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.verify import verify as check

    options = source_options(arch, model_kwargs, random_weights, seed)
    report = check(bundle, source=source, options=options, strict=strict)
    render.notes(report.notes)
    render.report(report, render.verification, as_json=as_json)
