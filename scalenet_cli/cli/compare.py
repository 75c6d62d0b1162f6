"""``scalenet compare``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Json
from scalenet_cli.files.standard_streams import outlive_readers


def compare(
    study: Annotated[
        str,
        typer.Argument(metavar="STUDY", help="A study file, or the name of a shipped study."),
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="The study's folder.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check all arms and print what they cost.")
    ] = False,
    only: Annotated[
        str | None,
        typer.Option(metavar="ARM,...", help="Train these arms now, and leave the others."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, max=64, help="Cells side by side, each on a device of its own.")
    ] = 1,
    source: Annotated[
        str | None,
        typer.Option(metavar="CHECKPOINT", help="Takes the place of the study's source."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Takes the place of the study's data path.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=0, help="Processes that load data; 4 for images, 0 for text."),
    ] = None,
    eval_batch_size: Annotated[int | None, typer.Option(min=1, help="Per device.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Json = False,
) -> None:
    """Train plans, baselines and the source itself on the same data, over several seeds.

    The same command goes on with what is not finished.
    """
    if not dry_run:
        outlive_readers()
    from scalenet_cli.cli import render
    from scalenet_cli.cli.compare_table import StudyProgress, show
    from scalenet_cli.study.compare import CompareOptions
    from scalenet_cli.study.compare import compare as run
    from scalenet_cli.training.run_training import Work

    options = CompareOptions(
        source=source,
        data=data,
        only=tuple(name.strip() for name in only.split(",")) if only else (),
        jobs=jobs,
        device=device,
        work=Work(workers, eval_batch_size),
    )
    with StudyProgress(as_json=as_json, jobs=jobs) as reporter:
        report = run(study, output, options, reporter, dry_run=dry_run)
    render.notes(report.notes)
    render.report(report, show, as_json=as_json)
