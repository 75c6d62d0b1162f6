"""``scalenet diagnose``."""

from functools import partial
from typing import Annotated, Literal

import typer

from scalenet_cli.cli import evaluate_options as given
from scalenet_cli.cli.options import (
    Arch,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Target,
    preprocessing,
    source_options,
)
from scalenet_cli.files.standard_streams import outlive_readers


def diagnose(
    target: Target,
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
    split: given.Split = None,
    dataset: given.Dataset = "",
    class_map: given.ClassMap = None,
    limit: Annotated[
        int,
        typer.Option("--limit", metavar="N", min=2, help="N evenly spaced images or sequences."),
    ] = 256,
    skip_corrupt: given.SkipCorrupt = False,
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
    tokenizer: given.Tokenizer = None,
    max_length: Annotated[
        int | None,
        typer.Option(
            "--max-length",
            metavar="N",
            min=2,
            help="Tokens of a sequence; by default 512 or what the model takes.",
        ),
    ] = None,
    template: Annotated[
        Literal["auto", "chat", "alpaca", "none"],
        typer.Option(
            "--template",
            metavar="auto|chat|alpaca|none",
            help="How records become text, as in a training recipe.",
        ),
    ] = "auto",
    mean: given.Mean = None,
    std: given.Std = None,
    crop_pct: given.CropPct = None,
    crop_mode: given.CropMode = None,
    interpolation: given.Interpolation = None,
    input_size: given.InputSize = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            help="At a time: 16 images or 4 sequences by default.",
        ),
    ] = None,
    device: given.Device = "auto",
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
    from scalenet_cli.tasks.base import DiagnoseOptions

    how = DiagnoseOptions(
        split=split,
        dataset=dataset,
        class_map=class_map,
        limit=limit,
        skip_corrupt=skip_corrupt,
        skip=skip,
        depths=depths,
        cka_tokens=cka_tokens,
        batch_size=batch_size,
        device=device,
        preprocessing=preprocessing(mean, std, crop_pct, crop_mode, interpolation, input_size),
        tokenizer=tokenizer,
        max_length=max_length,
        template=template,
    )
    options = source_options(arch, model_kwargs, random_weights, seed)
    with bars() as tick:
        report = run(
            target, data, output, against=against, how=how, options=options, force=force,
            progress=tick,
        )  # fmt: skip
    render.notes(report.notes)
    render.report(report, partial(diagnose_table.show, output=output), as_json=as_json)
