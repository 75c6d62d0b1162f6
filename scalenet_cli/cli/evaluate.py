"""``scalenet eval``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from scalenet_cli.cli.options import (
    Arch,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Target,
    source_options,
)

_DATA, _PREPARING, _RUNNING, _FILES = "Data", "Preprocessing", "Running", "Files"


def evaluate(
    target: Target,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DIR",
            rich_help_panel=_DATA,
            help="Folder with a folder per split or per class, a .tar, or what --dataset needs.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option("--split", metavar="NAME", rich_help_panel=_DATA, help="Which split."),
    ] = "validation",
    dataset: Annotated[
        str,
        typer.Option(
            "--dataset",
            metavar="NAME",
            rich_help_panel=_DATA,
            help="timm's name: hfds/food101, torch/cifar10, wds/imagenet. Folders need none.",
        ),
    ] = "",
    class_map: Annotated[
        str | None,
        typer.Option(
            "--class-map",
            metavar="FILE",
            rich_help_panel=_DATA,
            help="Text with one class name per line: its line is its target.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit", metavar="N", min=1, rich_help_panel=_DATA, help="N evenly spaced images."
        ),
    ] = None,
    skip_corrupt: Annotated[
        bool,
        typer.Option(
            "--skip-corrupt", rich_help_panel=_DATA, help="Leave damaged images out; count them."
        ),
    ] = False,
    mean: Annotated[
        str | None,
        typer.Option(
            "--mean",
            metavar="N,N,N",
            rich_help_panel=_PREPARING,
            help="Mean per channel, such as 0,0,0. By default all of these are the model's own.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            "--std", metavar="N,N,N", rich_help_panel=_PREPARING, help="Deviation per channel."
        ),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(
            "--crop-pct",
            metavar="N",
            rich_help_panel=_PREPARING,
            help="Size of the crop, as a share of the resized image.",
        ),
    ] = None,
    crop_mode: Annotated[
        str | None,
        typer.Option(
            "--crop-mode",
            metavar="MODE",
            rich_help_panel=_PREPARING,
            help="center, border or squash.",
        ),
    ] = None,
    interpolation: Annotated[
        str | None,
        typer.Option(
            "--interpolation",
            metavar="MODE",
            rich_help_panel=_PREPARING,
            help="nearest, bilinear, bicubic, box, hamming or lanczos.",
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input-size",
            metavar="N",
            rich_help_panel=_PREPARING,
            help="Image side in pixels, where the model takes any.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            rich_help_panel=_RUNNING,
            help="Images at a time, of each process.",
        ),
    ] = 256,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            min=0,
            max=4096,
            rich_help_panel=_RUNNING,
            help="Processes that read images; by default one per core, at most 8.",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option(
            "--device",
            metavar="auto|cpu|cuda|mps",
            rich_help_panel=_RUNNING,
            help="Where the model runs.",
        ),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp16",
            rich_help_panel=_RUNNING,
            help="Of autocast, below fp32.",
        ),
    ] = "fp32",
    channels_last: Annotated[
        bool,
        typer.Option("--channels-last", rich_help_panel=_RUNNING, help="Memory format of images."),
    ] = False,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile",
            rich_help_panel=_RUNNING,
            help="Compile every block with torch.compile.",
        ),
    ] = False,
    fail_under: Annotated[
        str | None,
        typer.Option(
            "--fail-under",
            metavar="top1=N,...",
            help="Exit with status 4 below top1 or top5 (per cent), or above loss.",
        ),
    ] = None,
    confusion: Annotated[
        Path | None,
        typer.Option(
            "--confusion",
            metavar="FILE",
            rich_help_panel=_FILES,
            help="Write images by target and prediction: .csv or .json.",
        ),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions",
            metavar="FILE",
            rich_help_panel=_FILES,
            help="Write one row per image: .csv or .parquet.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", rich_help_panel=_FILES, help="Replace these files.")
    ] = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Evaluate an image classifier: top-1, top-5, loss, throughput.

    TARGET may also be a run's folder, of which the best bundle is taken. Under torchrun, processes
    share the images.
    """
    from scalenet_cli.cli import evaluate_table, render
    from scalenet_cli.commands.evaluate import EvalOptions, is_main_process
    from scalenet_cli.commands.evaluate import evaluate as run
    from scalenet_cli.commands.options import parse_numbers
    from scalenet_cli.commands.thresholds import parse_thresholds, require_thresholds

    thresholds = {} if fail_under is None else parse_thresholds(fail_under)
    preparing: dict[str, Any] = {
        "mean": None if mean is None else parse_numbers(mean, "--mean"),
        "std": None if std is None else parse_numbers(std, "--std"),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "input_size": input_size,
    }
    how = EvalOptions(
        split=split,
        dataset=dataset,
        class_map=class_map,
        limit=limit,
        batch_size=batch_size,
        workers=workers,
        skip_corrupt=skip_corrupt,
        device=device,
        precision=precision,
        channels_last=channels_last,
        compile=compile_,
        preprocessing={name: value for name, value in preparing.items() if value is not None},
        confusion=confusion,
        predictions=predictions,
        force=force,
    )
    options = source_options(arch, model_kwargs, random_weights, seed)
    with evaluate_table.progress() as tick:
        report = run(target, data, how=how, options=options, progress=tick)
    if is_main_process():
        render.notes(report.notes)
        render.report(report, evaluate_table.show, as_json=as_json)
        found = {"top1": report.top1, "top5": report.top5, "loss": report.loss}
        require_thresholds(found, thresholds)
