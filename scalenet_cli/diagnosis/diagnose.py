"""``scalenet diagnose``."""

from contextlib import nullcontext
from pathlib import Path

from scalenet_cli.diagnosis.folder import check_report_output, write_report
from scalenet_cli.diagnosis.progress import Progress
from scalenet_cli.diagnosis.report import DiagnoseReport
from scalenet_cli.errors import OptionError
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks import find_task
from scalenet_cli.tasks.options import fill_record, refuse_other_tasks, task_options
from scalenet_cli.tasks.requests import DiagnoseOptions, Diagnosis
from scalenet_cli.tasks.task_of_target import task_of
from scalenet_cli.training.world import require_single


def diagnose(
    target: str | Path,
    data: str | Path | None,
    output: str | Path | None = None,
    *,
    against: str | Path | None = None,
    how: DiagnoseOptions | None = None,
    options: SourceOptions | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> DiagnoseReport:
    """Gradients, activations, CKA, adapters and single instances of a bundle, run or checkpoint.

    Nothing is trained and no weight is changed. ``output`` is a folder for the numbers, plots and a
    page; without it nothing is written. ``options`` say how to read what is a plain checkpoint, be
    it ``target`` or ``against``. ``force`` replaces an earlier report.

    Raises:
        ScalenetError: a model, the data or an option cannot be used, or the output exists.
    """
    how, options = how or DiagnoseOptions(), options or SourceOptions()
    if output is not None:
        check_report_output(Path(output), force=force)
    work = _plan(str(target), data, against=against, how=how, options=options)
    from scalenet_cli.diagnosis.session import run_diagnosis

    with nullcontext() if output is None else sole_writer(Path(output)):
        report = run_diagnosis(work, progress)
        if output is None:
            return report
        return write_report(report, Path(output), force=force)


def _plan(
    target: str,
    data: str | Path | None,
    against: str | Path | None,
    how: DiagnoseOptions,
    options: SourceOptions,
) -> Diagnosis:
    """What can be refused before any weight is read."""
    require_single("diagnose")
    task = task_of(target)
    other = None if against is None else str(against)
    if other is not None and task_of(other) != task:
        raise OptionError(
            f"{target} is {task_options(task).a_model}, but --against {other} is "
            f"{task_options(task_of(other)).a_model}",
            hint="both have to be of one kind",
        )
    refuse_other_tasks("diagnose", how.preprocessing.keys(), task, target)
    flags = fill_record("diagnose", task, held=(how,), more=how.task_options, where=target)
    find_task(task).refuse_data(None if data is None else str(data), how.dataset, target)
    work = Diagnosis(
        target=target, against=other, data=str(data or ""), task=task, how=how, options=options,
        flags=flags,
    )  # fmt: skip
    if work.options_of(target) != options and (other is None or work.options_of(other) != options):
        raise OptionError(
            "--arch, --model-kwargs and --random-weights are for checkpoints, and there are only "
            "bundles: a manifest knows the architecture",
            where=target,
        )
    return work
