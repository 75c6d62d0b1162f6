"""``scalenet expand``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import (
    Arch,
    Checkpoint,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Strict,
    source_options,
)
from scalenet_cli.files.standard_streams import outlive_readers


def expand(
    checkpoint: Checkpoint,
    plan: Annotated[
        str, typer.Option("--plan", metavar="PLAN", help="A plan file or a recipe's name.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="The bundle's folder.")
    ],
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print counts and sizes; write nothing.")
    ] = False,
    strict: Strict = False,
    as_json: Json = False,
) -> None:
    """Make a bundle: the checkpoint's tensors, and what every extra block instance owns."""
    if not dry_run:
        outlive_readers()
    from scalenet_cli.cli import render
    from scalenet_cli.commands.expand import expand_checkpoint

    options = source_options(arch, model_kwargs, random_weights, seed)
    report = expand_checkpoint(
        checkpoint,
        plan,
        output,
        options=options,
        force=force,
        dry_run=dry_run,
        strict=strict,
    )
    render.notes(report.notes)
    render.report(report, render.expand, as_json=as_json)
