"""The options of ``scalenet eval``, by what they are for."""

from pathlib import Path
from typing import Annotated, Final, Literal

import typer

_DATA, _TEXT, _PREPARING = "Data", "Language models", "Preprocessing"
_RUNNING, _FILES = "Running", "Files"

# Parameters of the command that have no meaning for the other kind of model.
FOR_IMAGES: Final = (
    "dataset", "class_map", "skip_corrupt", "mean", "std", "crop_pct", "crop_mode",
    "interpolation", "input_size", "workers", "channels_last", "confusion", "predictions", "force",
)  # fmt: skip
FOR_LANGUAGE: Final = (
    "tasks", "num_fewshot", "apply_chat_template", "include_path", "context", "stride", "delimiter",
    "template", "tokenizer",
)  # fmt: skip

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="DATA",
        rich_help_panel=_DATA,
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
        rich_help_panel=_DATA,
        help="Which split; validation by default.",
    ),
]
Dataset = Annotated[
    str,
    typer.Option(
        "--dataset",
        metavar="NAME",
        rich_help_panel=_DATA,
        help="timm's name: hfds/food101, torch/cifar10, wds/imagenet. Folders need none.",
    ),
]
ClassMap = Annotated[
    str | None,
    typer.Option(
        "--class-map",
        metavar="FILE",
        rich_help_panel=_DATA,
        help="Text with one class name per line: its line is its target.",
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        min=1,
        rich_help_panel=_DATA,
        help="N evenly spaced images or records; of --tasks the first N.",
    ),
]
SkipCorrupt = Annotated[
    bool,
    typer.Option(
        "--skip-corrupt", rich_help_panel=_DATA, help="Leave damaged images out; count them."
    ),
]
Tasks = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="NAME,...",
        rich_help_panel=_TEXT,
        help="Tasks of EleutherAI's lm-eval, such as piqa,arc_easy; downloads their data.",
    ),
]
NumFewshot = Annotated[
    int | None,
    typer.Option(
        "--num-fewshot",
        metavar="N",
        min=0,
        rich_help_panel=_TEXT,
        help="Examples before each question of --tasks.",
    ),
]
ApplyChatTemplate = Annotated[
    bool,
    typer.Option(
        "--apply-chat-template",
        rich_help_panel=_TEXT,
        help="Of --tasks: questions as messages of a user, as instruct models are measured.",
    ),
]
IncludePath = Annotated[
    Path | None,
    typer.Option(
        "--include-path",
        metavar="DIR",
        rich_help_panel=_TEXT,
        help="Folder of own tasks for --tasks; their code is run, so take only what you trust.",
    ),
]
Context = Annotated[
    int | None,
    typer.Option(
        "--context",
        metavar="N",
        min=2,
        rich_help_panel=_TEXT,
        help="Tokens of a window; by default 1024 or what the model takes, for questions the "
        "latter.",
    ),
]
Stride = Annotated[
    int | None,
    typer.Option(
        "--stride",
        metavar="N",
        min=1,
        rich_help_panel=_TEXT,
        help="Tokens from one window's beginning to the next one's; by default half of it.",
    ),
]
Delimiter = Annotated[
    str,
    typer.Option(
        "--delimiter",
        metavar="TEXT",
        rich_help_panel=_TEXT,
        help="Between a query and a choice; one space by default.",
    ),
]
Template = Annotated[
    Literal["auto", "chat", "alpaca", "none"],
    typer.Option(
        "--template",
        metavar="auto|chat|alpaca|none",
        rich_help_panel=_TEXT,
        help="Of records to finetune on; by default what the model was trained with, or else the "
        "chat template, or else Alpaca's.",
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        metavar="DIR",
        rich_help_panel=_TEXT,
        help="Folder of the tokenizer; by default the target's own.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="N,N,N",
        rich_help_panel=_PREPARING,
        help="Mean per channel, such as 0,0,0. By default all of these are the model's own.",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std", metavar="N,N,N", rich_help_panel=_PREPARING, help="Deviation per channel."
    ),
]
CropPct = Annotated[
    float | None,
    typer.Option(
        "--crop-pct",
        metavar="N",
        rich_help_panel=_PREPARING,
        help="Size of the crop, as a share of the resized image.",
    ),
]
CropMode = Annotated[
    str | None,
    typer.Option(
        "--crop-mode",
        metavar="MODE",
        rich_help_panel=_PREPARING,
        help="center, border or squash.",
    ),
]
Interpolation = Annotated[
    str | None,
    typer.Option(
        "--interpolation",
        metavar="MODE",
        rich_help_panel=_PREPARING,
        help="nearest, bilinear, bicubic, box, hamming or lanczos.",
    ),
]
InputSize = Annotated[
    int | None,
    typer.Option(
        "--input-size",
        metavar="N",
        rich_help_panel=_PREPARING,
        help="Image side in pixels, where the model takes any.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        metavar="N",
        min=1,
        rich_help_panel=_RUNNING,
        help="At a time, of each process: 256 images or 8 sequences by default.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        metavar="N",
        min=0,
        max=4096,
        rich_help_panel=_RUNNING,
        help="Processes that read images; by default one per core, at most 8.",
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"],
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|mps",
        rich_help_panel=_RUNNING,
        help="Where the model runs.",
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"] | None,
    typer.Option(
        "--precision",
        metavar="fp32|bf16|fp16",
        rich_help_panel=_RUNNING,
        help="Of autocast, below fp32, which is the default. Language models are converted to it; "
        "by default they stay as stored.",
    ),
]
ChannelsLast = Annotated[
    bool,
    typer.Option("--channels-last", rich_help_panel=_RUNNING, help="Memory format of images."),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile", rich_help_panel=_RUNNING, help="Compile every block with torch.compile."
    ),
]
FailUnder = Annotated[
    str | None,
    typer.Option(
        "--fail-under",
        metavar="NAME=N,...",
        help="Exit with status 4 below top1, top5 (per cent), acc, acc_norm (shares), or above "
        "loss, perplexity, bits_per_byte.",
    ),
]
Confusion = Annotated[
    Path | None,
    typer.Option(
        "--confusion",
        metavar="FILE",
        rich_help_panel=_FILES,
        help="Write images by target and prediction: .csv or .json.",
    ),
]
Predictions = Annotated[
    Path | None,
    typer.Option(
        "--predictions",
        metavar="FILE",
        rich_help_panel=_FILES,
        help="Write one row per image: .csv or .parquet.",
    ),
]
Force = Annotated[
    bool, typer.Option("--force", rich_help_panel=_FILES, help="Replace these files.")
]
