"""``scalenet eval``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pydantic import Field

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.reports.base import HeadClasses, Report
from scalenet_cli.tasks.base import Device, EvalRequest, EvalResult, Precision, Progress
from scalenet_cli.tasks.image_classification.options import EvalFlags
from scalenet_cli.tasks.image_classification.task import IMAGE_CLASSIFICATION
from scalenet_cli.tasks.result_files import PARQUET, check_result_file

CONFUSION: Final = "--confusion"
PREDICTIONS: Final = "--predictions"


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """Which samples, how to prepare and run them, and which files to write.

    ``dataset`` is timm's name of a data set, empty for folders and tars. ``preprocessing`` has
    timm's names (``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``,
    ``input_size``) and overrides the model's own. ``workers`` is by default what the machine has,
    at most 8. A limit takes evenly spaced samples.
    """

    split: str = "validation"
    dataset: str = ""
    class_map: str | None = None
    limit: int | None = None
    batch_size: int = 256
    workers: int | None = None
    skip_corrupt: bool = False
    device: Device = "auto"
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    confusion: str | Path | None = None
    predictions: str | Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "batch_size": 1, "workers": 0}
        found = {"limit": self.limit, "batch_size": self.batch_size, "workers": self.workers}
        for name, value in found.items():
            if value is not None and value < least[name]:
                raise OptionError(f"{name} is {value}, and has to be at least {least[name]}")


class CorruptImage(Report):
    """An image that was left out."""

    name: str = Field(description="its path in the data")
    reason: str = Field(description="what the decoder says")


class EvalReport(Report):
    """What a model answers to the images of one split."""

    target: str = Field(description="as it was given")
    data: str = Field(description="the folder, file or data set that was read")
    architecture: str = Field(description="timm's name")
    num_images: int = Field(description="images that were counted, each once")
    num_corrupt: int = Field(description="images that were left out, with `--skip-corrupt`")
    num_classes: int = Field(description="outputs of the model")
    classes: HeadClasses = Field(
        description="`same`: the names of the data's classes are the model's; `mapped`: by a class "
        "map; `assumed`: names do not tell"
    )
    correct1: int = Field(description="images whose target has the highest logit")
    correct5: int = Field(description="images whose target is among the five highest logits")
    top1: float = Field(description="per cent")
    top5: float = Field(description="per cent; of fewer than five classes all are among the five")
    loss: float = Field(description="mean cross entropy, computed in float64 of the logits")
    seconds: float = Field(description="of the main process, reading and decoding included")
    images_per_second: float = Field(description="`num_images` / `seconds`, of all processes")
    device: str = Field(description="kind of device")
    num_processes: int = Field(description="processes that shared the images")
    precision: Precision = Field(description="of autocast")
    batch_size: int = Field(description="images of one process at a time")
    preprocessing: dict[str, Any] = Field(description="as it was applied, with timm's names")
    corrupt: tuple[CorruptImage, ...] = Field(description="the images that were left out")
    files: tuple[str, ...] = Field(description="what was written")
    notes: tuple[str, ...] = Field(description="decisions that the user should hear of")


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
    IMAGE_CLASSIFICATION.refuse_data(place, how.dataset, str(target))
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

    return run_evaluation(str(target), str(data or ""), how, options, progress)


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
