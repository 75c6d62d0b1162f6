"""``scalenet eval``."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from scalenet_cli.cli.options import (
    Arch,
    Device,
    EvalData,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Split,
    Target,
    source_options,
)
from scalenet_cli.cli.task_options import with_task_options
from scalenet_cli.tasks.options import GivenOptions

_RUNNING = "Running"


def _evaluate(
    invocation: typer.Context,
    target: Target,
    given: GivenOptions,
    data: EvalData = None,
    split: Split = None,
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            metavar="N",
            min=1,
            rich_help_panel="Data",
            help="N evenly spaced images or records; of --tasks the first N.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            rich_help_panel=_RUNNING,
            help="At a time, of each process: 256 images or 8 sequences by default.",
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        typer.Option(
            "--precision",
            metavar="fp32|bf16|fp16",
            rich_help_panel=_RUNNING,
            help="Of autocast, below fp32, which is the default. Language models are converted to "
            "it; by default they stay as stored.",
        ),
    ] = None,
    compile_: Annotated[
        bool,
        typer.Option(
            "--compile", rich_help_panel=_RUNNING, help="Compile every block with torch.compile."
        ),
    ] = False,
    fail_under: Annotated[
        str | None,
        typer.Option(
            "--fail-under",
            metavar="NAME=N,...",
            help="Exit with status 4 below top1, top5 (per cent), acc, acc_norm (shares), or above "
            "loss, perplexity, bits_per_byte.",
        ),
    ] = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Evaluate an image classifier or a language model.

    Of images: top-1, top-5, loss. Of text: perplexity; of questions, and of lm-eval's tasks:
    accuracy. TARGET may also be a run's folder, of which the best bundle is taken. Under torchrun,
    processes share the data.
    """
    from scalenet_cli.cli import render
    from scalenet_cli.cli.progress import batches_bar
    from scalenet_cli.tasks import find_task
    from scalenet_cli.tasks.requests import EvalRequest
    from scalenet_cli.tasks.task_of_target import task_of
    from scalenet_cli.tasks.thresholds import parse_thresholds, require_thresholds
    from scalenet_cli.training.world import this_world

    task = task_of(target)
    flags = given.record(task, target)
    thresholds = {} if fail_under is None else parse_thresholds(fail_under, task)
    request = EvalRequest(
        target=target,
        options=source_options(arch, model_kwargs, random_weights, seed),
        data=tuple(data or ()),
        flags=flags,
        split=split,
        limit=limit,
        batch_size=batch_size,
        device=device,
        precision=precision,
        compile=compile_,
        wanted=frozenset(thresholds),
    )
    with batches_bar() as tick:
        result = find_task(task).evaluate(request, tick)
    if this_world().rank == 0:
        render.notes(result.notes)
        render.report(result.report, lambda _: print_lines(result.lines), as_json=as_json)
        require_thresholds(result.found, thresholds, task)


def print_lines(lines: Iterable[str]) -> None:
    """Each on stdout."""
    for line in lines:
        typer.echo(line)


evaluate = with_task_options("eval", _evaluate)
