"""The options that causal language modelling owns."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from scalenet_cli.tasks.causal_lm.data.templates import Template
from scalenet_cli.tasks.options import Option, TaskOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class FinetuneFlags:
    """Of ``scalenet finetune``."""

    val_data: Annotated[
        str | None, Option(metavar="FILE", help="Records of text to validate on, elsewhere.")
    ] = None
    tokenizer: Annotated[
        str | None, Option(metavar="FOLDER", help="Of the tokenizer, instead of the bundle's own.")
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalFlags:
    """Of ``scalenet eval``."""

    tasks: Annotated[
        str | None,
        Option(
            metavar="NAME,...",
            help="Tasks of EleutherAI's lm-eval, such as piqa,arc_easy; downloads their data.",
        ),
    ] = None
    num_fewshot: Annotated[
        int | None,
        Option(metavar="N", minimum=0, help="Examples before each question of --tasks."),
    ] = None
    apply_chat_template: Annotated[
        bool,
        Option(
            help="Of --tasks: questions as messages of a user, as instruct models are measured."
        ),
    ] = False
    include_path: Annotated[
        Path | None,
        Option(
            metavar="DIR",
            help="Folder of own tasks for --tasks; their code is run, so take only what you trust.",
        ),
    ] = None
    context: Annotated[
        int | None,
        Option(
            metavar="N",
            minimum=2,
            help="Tokens of a window; by default 1024 or what the model takes, for questions the "
            "latter.",
        ),
    ] = None
    stride: Annotated[
        int | None,
        Option(
            metavar="N",
            minimum=1,
            help="Tokens from one window's beginning to the next one's; by default half of it.",
        ),
    ] = None
    delimiter: Annotated[
        str,
        Option(metavar="TEXT", help="Between a query and a choice; one space by default."),
    ] = " "
    template: Annotated[
        Template,
        Option(
            metavar="auto|chat|alpaca|none",
            help="Of records to finetune on; by default what the model was trained with, or else "
            "the chat template, or else Alpaca's.",
        ),
    ] = "auto"
    tokenizer: Annotated[
        str | None,
        Option(metavar="DIR", help="Folder of the tokenizer; by default the target's own."),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DiagnoseFlags:
    """Of ``scalenet diagnose``."""

    tokenizer: Annotated[
        str | None,
        Option(metavar="DIR", help="Folder of the tokenizer; by default the target's own."),
    ] = None
    max_length: Annotated[
        int | None,
        Option(
            metavar="N",
            minimum=2,
            help="Tokens of a sequence; by default 512 or what the model takes.",
        ),
    ] = None
    template: Annotated[
        Template,
        Option(
            metavar="auto|chat|alpaca|none",
            help="How records become text, as in a training recipe.",
        ),
    ] = "auto"


OPTIONS: Final = TaskOptions(
    models="language models",
    a_model="a language model",
    records={"finetune": FinetuneFlags, "eval": EvalFlags, "diagnose": DiagnoseFlags},
)
