"""``scalenet diagnose``."""

from functools import partial
from typing import Annotated, Literal

import typer

from scalenet_cli.cli.options import (
    Arch,
    Device,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Split,
    Target,
    source_options,
)
from scalenet_cli.cli.task_options import with_task_options
from scalenet_cli.files.standard_streams import outlive_readers
from scalenet_cli.tasks.options import GivenOptions


def _diagnose(
    invocation: typer.Context,
    target: Target,
    given: GivenOptions,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="Folder of the report.")
    ],
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="TARGET", help="Compare with another model's blocks."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            help="Images: a folder with a folder per split or per class, a .tar, or what --dataset "
            "needs. Text: .jsonl, .json, .txt, .parquet, a folder, hf:OWNER/NAME.",
        ),
    ] = None,
    split: Split = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=2, help="N evenly spaced images or sequences."),
    ] = 256,
    skip: Annotated[
        Literal["none", "new", "all"],
        typer.Option(
            "--skip",
            metavar="none|new|all",
            help="Which instances are skipped, one by one. With new and all, adapters are removed "
            "too, one instance at a time.",
        ),
    ] = "new",
    depths: Annotated[
        int, typer.Option("--depths", metavar="N", min=1, max=64, help="Number of histograms.")
    ] = 6,
    cka_tokens: Annotated[
        int | None,
        typer.Option(
            "--cka-tokens",
            metavar="N",
            min=1,
            help="Compare N tokens of every sample, drawn by the seed, not their mean.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="At a time: 16 images or 4 sequences by default.",
        ),
    ] = None,
    device: Device = "auto",
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a report.")] = False,
    as_json: Json = False,
) -> None:
    """Look into a model: gradients, activations, CKA, adapters, and what single blocks are worth.

    Numbers, plots and a page go to OUT. TARGET may also be a run's folder, of which the best bundle
    is taken. Nothing is trained.
    """
    outlive_readers()
    from scalenet_cli.cli import diagnose_table, render
    from scalenet_cli.cli.progress import bars
    from scalenet_cli.diagnosis.diagnose import diagnose as run
    from scalenet_cli.tasks.requests import DiagnoseOptions

    how = DiagnoseOptions(
        split=split,
        limit=limit,
        skip=skip,
        depths=depths,
        cka_tokens=cka_tokens,
        batch_size=batch_size,
        device=device,
        task_options=given.given_beside(DiagnoseOptions),
        **given.values_for(DiagnoseOptions),
    )
    options = source_options(arch, model_kwargs, random_weights, seed)
    with bars() as tick:
        report = run(
            target, data, output, against=against, how=how, options=options, force=force,
            progress=tick,
        )  # fmt: skip
    render.notes(report.notes)
    render.report(report, partial(diagnose_table.show, output=output), as_json=as_json)


diagnose = with_task_options("diagnose", _diagnose)
