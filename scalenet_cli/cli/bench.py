"""``scalenet bench``."""

from typing import Annotated, Literal

import typer

from scalenet_cli.cli.options import (
    Arch,
    Json,
    ModelKwargs,
    OptionalPlan,
    Seed,
    Target,
    source_options,
)
from scalenet_cli.errors import OptionError


def bench(
    target: Target,
    plan: OptionalPlan = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            metavar="N",
            min=1,
            max=2**20,
            help="Samples of a pass. By default 8 images on a CPU, 64 on CUDA; 1 or 8 sequences.",
        ),
    ] = None,
    input_size: Annotated[
        int | None,
        typer.Option(
            "--input-size", metavar="N", min=1, help="Image side in pixels, or number of tokens."
        ),
    ] = None,
    repeats: Annotated[
        int, typer.Option("--repeats", metavar="N", min=1, help="Rounds that are measured.")
    ] = 10,
    warmup: Annotated[
        int, typer.Option("--warmup", metavar="N", min=0, help="Rounds before them.")
    ] = 3,
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option("--device", metavar="auto|cpu|cuda|mps", help="Where the models run."),
    ] = "auto",
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"],
        typer.Option("--precision", metavar="fp32|bf16|fp16", help="Of autocast, below fp32."),
    ] = "fp32",
    compile_: Annotated[
        bool, typer.Option("--compile", help="Compile every block with torch.compile.")
    ] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Memory format of images.")
    ] = False,
    inference_only: Annotated[
        bool, typer.Option("--inference-only", help="Measure no training step.")
    ] = False,
    train_only: Annotated[bool, typer.Option("--train-only", help="Measure no inference.")] = False,
    threads: Annotated[
        int | None,
        typer.Option("--threads", metavar="N", min=1, max=4096, help="Threads on the CPU."),
    ] = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Time and memory of inference and training, beside the base, the floor and an untied model.

    No weights are read: random ones cost the same.
    """
    if inference_only and train_only:
        raise OptionError("--inference-only and --train-only leave nothing to measure")
    from scalenet_cli.benchmark.bench import bench as measure
    from scalenet_cli.benchmark.options import BOTH, BenchOptions
    from scalenet_cli.cli import bench_table, render
    from scalenet_cli.cli.progress import bars

    how = BenchOptions(
        batch_size=batch_size,
        input_size=input_size,
        repeats=repeats,
        warmup=warmup,
        device=device,
        precision=precision,
        compile=compile_,
        channels_last=channels_last,
        passes=("inference",) if inference_only else ("training",) if train_only else BOTH,
        threads=threads,
    )
    options = source_options(arch, model_kwargs, seed=seed)
    with bars() as tick:
        report = measure(target, plan=plan, how=how, options=options, progress=tick)
    render.notes(report.notes)
    render.report(report, bench_table.show, as_json=as_json)
