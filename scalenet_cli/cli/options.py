"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from scalenet_cli.commands.options import SourceOptions, parse_model_kwargs

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
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]


def source_options(
    arch: str | None, model_kwargs: list[str] | None, random_weights: bool = False, seed: int = 0
) -> SourceOptions:
    """The shared options as the commands take them."""
    return SourceOptions(arch, parse_model_kwargs(model_kwargs or []), random_weights, seed)
