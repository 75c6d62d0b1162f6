"""``scalenet eval``."""

from pathlib import Path

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks.image_classification.evaluation.options import (
    CONFUSION,
    PREDICTIONS,
    EvalOptions,
)
from scalenet_cli.tasks.image_classification.evaluation.report import EvalReport
from scalenet_cli.tasks.image_classification.options import EvalFlags
from scalenet_cli.tasks.image_classification.refuse_data import refuse_data
from scalenet_cli.tasks.requests import EvalRequest, EvalResult, Progress
from scalenet_cli.tasks.result_files import PARQUET, check_result_file


def evaluate(
    target: str | Path,
    data: str | Path | None = None,
    *,
    how: EvalOptions | None = None,
    options: SourceOptions | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Accuracy and loss of a bundle, a run or a checkpoint on labelled images.

    ``data`` is a folder or a tar, or what ``how.dataset`` needs. Where a launcher started several
    processes, each evaluates its share, all return the same numbers, and the main one writes.

    Raises:
        ScalenetError: the target, the data or an option cannot be used; or an image is damaged.
    """
    how, options = how or EvalOptions(), options or SourceOptions()
    place = None if data is None else str(data)
    refuse_data(place, how.dataset, str(target))
    files = {
        CONFUSION: (how.confusion, (".csv", ".json")),
        PREDICTIONS: (how.predictions, (".csv", PARQUET)),
    }
    for option, (path, suffixes) in files.items():
        if path is not None:
            inputs = _inputs(str(target), data, how)
            check_result_file(Path(path), option, suffixes, force=how.force, inputs=inputs)
    if _is_one_file(how.confusion, how.predictions):
        raise OptionError(f"{CONFUSION} and {PREDICTIONS} name the same file")
    from scalenet_cli.tasks.image_classification.evaluation.session import run_evaluation

    return run_evaluation(str(target), str(data or ""), how=how, options=options, progress=progress)


def evaluate_request(request: EvalRequest, progress: Progress | None) -> EvalResult:
    """The evaluation that the command line asks for; see tasks.base.Task.evaluate."""
    from scalenet_cli.tasks.image_classification.evaluation.lines import report_lines

    flags = request.flags
    assert isinstance(flags, EvalFlags)
    if len(request.data) > 1:
        raise OptionError(
            f"--data is given {len(request.data)} times; for images it is one folder or tar"
        )
    how = EvalOptions(
        split=request.split or "validation",
        dataset=flags.dataset,
        class_map=flags.class_map,
        limit=request.limit,
        batch_size=request.batch_size or 256,
        workers=flags.workers,
        skip_corrupt=flags.skip_corrupt,
        device=request.device,
        precision=request.precision or "fp32",
        channels_last=flags.channels_last,
        compile=request.compile,
        preprocessing=flags.preprocessing,
        confusion=flags.confusion,
        predictions=flags.predictions,
        force=flags.force,
    )
    place = request.data[0] if request.data else None
    report = evaluate(request.target, place, how=how, options=request.options, progress=progress)
    found = {"top1": report.top1, "top5": report.top5, "loss": report.loss}
    return EvalResult(
        report=report, lines=tuple(report_lines(report)), notes=report.notes, found=(("", found),)
    )


def _inputs(target: str, data: str | Path | None, how: EvalOptions) -> list[Path]:
    """What is read and no result may replace, beside bundles and checkpoint folders.

    Plain folders of images have room for tables; other data may be made of them.
    """
    files = [Path(target), *(Path(one) for one in (data, how.class_map) if one is not None)]
    if data is not None and how.class_map is not None:
        files.append(Path(data, how.class_map))  # timm looks there as well
    read = [path for path in files if path.is_file()]
    if how.dataset:
        prefix, _, name = how.dataset.partition("/")
        read += [Path(data)] if data else []
        read += [Path(name)] if prefix.lower() == "hfds" else []
    return read


def _is_one_file(one: str | Path | None, other: str | Path | None) -> bool:
    if one is None or other is None:
        return False
    places = [Path(path).parent.resolve() / Path(path).name for path in (one, other)]
    return places[0] == places[1]
