"""``scalenet finetune``."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Final, Literal

import typer

from scalenet_cli.cli.options import Bundle, Json
from scalenet_cli.cli.task_options import with_task_options
from scalenet_cli.files.standard_streams import outlive_readers
from scalenet_cli.tasks.options import GivenOptions

DataDir = Annotated[
    str,
    typer.Option(
        "--data",
        metavar="DATA",
        help="Images: a folder with one per split, or timm's root. Text: a file of records, a "
        "folder with one per split, or hf:REPO.",
    ),
]
_TRIAL, _DATA, _DEVICES, _RECIPE = "Trials", "Data", "Devices", "Recipe"
# Parameters that are entries of the recipe.
_RECIPE_FLAGS: Final = (
    "epochs", "batch_size", "accumulate", "lr", "weight_decay", "warmup_epochs", "drop_path",
    "max_length", "packing", "ema_decay", "precision", "gradient_checkpointing", "compile_blocks",
    "seed", "deterministic", "save_steps", "eval_epochs", "eval_steps", "max_steps",
)  # fmt: skip


def _finetune(
    invocation: typer.Context,
    bundle: Bundle,
    given: GivenOptions,
    data: DataDir,
    output: Annotated[str, typer.Option("--output", "-o", metavar="RUN", help="The run's folder.")],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", metavar="R.yaml", help="A recipe file or a shipped one's name."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with RUN, or start it where there is none.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Passes over the training data.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(rich_help_panel=_RECIPE, help="Samples per step, of all devices together."),
    ] = None,
    accumulate: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Micro-batches per step.")
    ] = None,
    lr: Annotated[
        float | None, typer.Option(rich_help_panel=_RECIPE, help="Peak learning rate.")
    ] = None,
    weight_decay: Annotated[
        float | None, typer.Option(rich_help_panel=_RECIPE, help="Of matrices alone.")
    ] = None,
    warmup_epochs: Annotated[
        float | None, typer.Option(rich_help_panel=_RECIPE, help="Linear; part of the epochs.")
    ] = None,
    drop_path: Annotated[
        float | None,
        typer.Option(rich_help_panel=_RECIPE, help="Of the last block; default: the plan's."),
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(rich_help_panel=_RECIPE, help="Text: tokens of a sequence; longer is cut."),
    ] = None,
    packing: Annotated[
        bool | None,
        typer.Option("--packing", rich_help_panel=_RECIPE, help="Text: several records a row."),
    ] = None,
    ema_decay: Annotated[
        float | None,
        typer.Option(rich_help_panel=_RECIPE, help="Average the trained tensors, and save that."),
    ] = None,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(rich_help_panel=_RECIPE, help="Of autocast; default: fp32."),
    ] = None,
    gradient_checkpointing: Annotated[
        bool | None,
        typer.Option(
            "--gradient-checkpointing", rich_help_panel=_RECIPE, help="Less memory, more work."
        ),
    ] = None,
    compile_blocks: Annotated[
        bool | None,
        typer.Option("--compile", rich_help_panel=_RECIPE, help="torch.compile of each block."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, rich_help_panel=_RECIPE, help="Of everything random.")
    ] = None,
    deterministic: Annotated[
        bool | None,
        typer.Option(
            "--deterministic", rich_help_panel=_RECIPE, help="Refuse operations that vary."
        ),
    ] = None,
    save_steps: Annotated[
        int | None,
        typer.Option(rich_help_panel=_RECIPE, help="Steps between checkpoints, beside epochs'."),
    ] = None,
    eval_epochs: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Epochs between evaluations.")
    ] = None,
    eval_steps: Annotated[
        int | None, typer.Option(rich_help_panel=_RECIPE, help="Or steps between evaluations.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            rich_help_panel=_RECIPE,
            help="Any entry of the recipe. Repeatable.",
        ),
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(rich_help_panel=_TRIAL, help="End after so many steps.")
    ] = None,
    limit_train: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_TRIAL, help="Use so many samples.")
    ] = None,
    limit_val: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_TRIAL, help="Use so many samples.")
    ] = None,
    train_split: Annotated[str, typer.Option(rich_help_panel=_DATA, help="Its folder.")] = "train",
    val_split: Annotated[
        str, typer.Option(rich_help_panel=_DATA, help="Its folder, val or the like included.")
    ] = "validation",
    workers: Annotated[
        int | None,
        typer.Option(
            min=0, rich_help_panel=_DATA, help="Processes that load data; 4 for images, 0 for text."
        ),
    ] = None,
    eval_batch_size: Annotated[
        int | None, typer.Option(min=1, rich_help_panel=_DEVICES, help="Per device.")
    ] = None,
    device: Annotated[
        str, typer.Option(rich_help_panel=_DEVICES, help="auto, cpu, cuda or mps.")
    ] = "auto",
    gpus: Annotated[
        int | None,
        typer.Option(
            min=1, rich_help_panel=_DEVICES, help="Start so many processes here with torchrun."
        ),
    ] = None,
    sharding: Annotated[
        Literal["ddp", "fsdp"],
        typer.Option(rich_help_panel=_DEVICES, help="The whole model per device, or a share."),
    ] = "ddp",
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write RUN/tensorboard.")
    ] = False,
    no_ablation: Annotated[
        bool,
        typer.Option(
            "--no-ablation", help="Do not evaluate once more at the end, without the new blocks."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Train a bundle's model: the paper's recipe by default, each value a flag or --set."""
    outlive_readers()
    flags = {name.removesuffix("_blocks"): invocation.params[name] for name in _RECIPE_FLAGS}
    if gpus is not None:
        from scalenet_cli.cli.launch import launch

        launch(gpus)
    from scalenet_cli.cli import render
    from scalenet_cli.cli.progress import TerminalReporter
    from scalenet_cli.commands.finetune import finetune as run
    from scalenet_cli.plan.load_training import merge_settings
    from scalenet_cli.tasks.requests import FinetuneOptions
    from scalenet_cli.training.data import DataOptions
    from scalenet_cli.training.loop import Reporter
    from scalenet_cli.training.run_training import Work
    from scalenet_cli.training.tensorboard import TensorBoardReporter

    chosen = DataOptions(
        data=data,
        train_split=train_split,
        val_split=val_split,
        limit_train=limit_train,
        limit_val=limit_val,
        **given.values_for(DataOptions),
    )
    options = FinetuneOptions(
        recipe=recipe,
        settings=merge_settings(flags, settings or []),
        resume=resume,
        device=device,
        work=Work(workers, eval_batch_size, sharding),
        ablation=not no_ablation,
        task_options=given.given_beside(DataOptions, FinetuneOptions),
        **given.values_for(FinetuneOptions),
    )
    with TerminalReporter() as reporter, ExitStack() as stack:
        heard: Reporter = reporter
        if tensorboard and reporter.is_main:
            heard = stack.enter_context(
                closing(TensorBoardReporter(Path(output) / "tensorboard", reporter))
            )
        report = run(bundle, chosen, output=output, options=options, reporter=heard)
    if reporter.is_main:
        render.report(report, render.finetuned, as_json=as_json)


finetune = with_task_options("finetune", _finetune)
