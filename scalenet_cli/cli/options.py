"""Arguments and options that several commands share."""

from typing import Annotated, Literal

import typer

from scalenet_cli.models.source_options import SourceOptions, parse_model_kwargs

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        help="A bundle, a checkpoint (.pth, .safetensors), a Hugging Face folder, timm:NAME or "
        "hf:REPO.",
    ),
]
Checkpoint = Annotated[
    str,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A .pth or .safetensors file, a Hugging Face folder, timm:NAME or hf:REPO.",
    ),
]
Bundle = Annotated[str, typer.Argument(metavar="BUNDLE", help="A folder made by `expand`.")]
OptionalPlan = Annotated[
    str | None,
    typer.Option("--plan", metavar="PLAN", help="A plan file, or the name of a shipped recipe."),
]
Arch = Annotated[
    str | None,
    typer.Option("--arch", metavar="NAME", help="timm architecture, where shapes do not tell."),
]
ModelKwargs = Annotated[
    list[str] | None,
    typer.Option(
        "--model-kwargs",
        metavar="KEY=VALUE",
        help="timm model argument, norm_eps, or preprocessing such as mean=0,0,0. Repeatable.",
    ),
]
RandomWeights = Annotated[
    bool, typer.Option("--random-weights", help="Draw weights from the seed; no download.")
]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**63 - 1, help="Seed of everything random.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse tensors with NaN or infinite values.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
EvalData = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="DATA",
        rich_help_panel="Data",
        help="Images: a folder with a folder per split or per class, a .tar, or what --dataset "
        "needs. Text or questions: .jsonl, .json, .txt, .parquet, a folder, hf:OWNER/NAME; "
        "repeatable.",
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split",
        metavar="NAME",
        rich_help_panel="Data",
        help="Which split; validation by default.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        rich_help_panel="Running",
        help="Where the model runs.",
    ),
]


def source_options(
    arch: str | None, model_kwargs: list[str] | None, random_weights: bool = False, seed: int = 0
) -> SourceOptions:
    """The shared options as the commands take them."""
    return SourceOptions(arch, parse_model_kwargs(model_kwargs or []), random_weights, seed)
