"""``scalenet diagnose``."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from scalenet_cli.diagnosis.folder import check_report_output, write_report
from scalenet_cli.diagnosis.report import DiagnoseReport
from scalenet_cli.errors import OptionError
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks.base import DiagnoseOptions, Diagnosis
from scalenet_cli.tasks.causal_lm.data.records import SUFFIXES
from scalenet_cli.tasks.find_task import TargetTask, task_of
from scalenet_cli.training.world import require_single

# What is being done, batches done, and batches in total.
Progress = Callable[[str, int, int], None]


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
    work = _plan(str(target), data, against, how, options)
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
        kinds = {"image-classification": "classifies images", "causal-lm": "is a language model"}
        raise OptionError(
            f"{target} {kinds[task]}, but --against {other} {kinds[task_of(other)]}",
            hint="both have to be of one kind",
        )
    _refuse_other_kind(task, how, target)
    if data is None and not (
        task == "image-classification" and how.dataset.lower().startswith("hfds/")
    ):
        raise OptionError("--data is missing")
    if (
        task == "image-classification"
        and data
        and not how.dataset
        and Path(data).suffix.lower() in SUFFIXES
    ):
        raise OptionError(
            f"the model classifies images, but {data} is a file of text", where=target
        )
    work = Diagnosis(target, other, str(data or ""), task, how, options)
    if work.options_of(target) != options and (other is None or work.options_of(other) != options):
        raise OptionError(
            "--arch, --model-kwargs and --random-weights are for checkpoints, and there are only "
            "bundles: a manifest knows the architecture",
            where=target,
        )
    return work


def _refuse_other_kind(task: TargetTask, how: DiagnoseOptions, target: str) -> None:
    """Options of the other kind of model would change nothing."""
    images = {
        "--dataset": how.dataset,
        "--class-map": how.class_map,
        "--skip-corrupt": how.skip_corrupt,
        **{f"--{name.replace('_', '-')}": True for name in how.preprocessing},
    }
    language = {
        "--tokenizer": how.tokenizer,
        "--max-length": how.max_length,
        "--template": how.template != "auto",
    }
    wrong = [name for name, given in (images if task == "causal-lm" else language).items() if given]
    if wrong:
        own, found = ("image classifiers", "a language model")
        if task == "image-classification":
            own, found = ("language models", "an image classifier")
        raise OptionError(f"{wrong[0]} is for {own}, but this is {found}", where=target)
