"""Arguments and options that several commands share."""

from typing import Annotated, Any

import typer

from scalenet_cli.models.source_options import SourceOptions, parse_model_kwargs, parse_numbers

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


def source_options(
    arch: str | None, model_kwargs: list[str] | None, random_weights: bool = False, seed: int = 0
) -> SourceOptions:
    """The shared options as the commands take them."""
    return SourceOptions(arch, parse_model_kwargs(model_kwargs or []), random_weights, seed)


def preprocessing(
    mean: str | None,
    std: str | None,
    crop_pct: float | None,
    crop_mode: str | None,
    interpolation: str | None,
    input_size: int | None,
) -> dict[str, Any]:
    """What was given of timm's data config.

    Raises:
        OptionError: a list of numbers is none.
    """
    given = {
        "mean": None if mean is None else parse_numbers(mean, "--mean"),
        "std": None if std is None else parse_numbers(std, "--std"),
        "crop_pct": crop_pct,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
        "input_size": input_size,
    }
    return {name: value for name, value in given.items() if value is not None}
