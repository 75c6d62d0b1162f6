"""One run of ``scalenet eval``: a model and a split on a device, counted and reported."""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from scalenet_cli.errors import OptionError
from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import use_target
from scalenet_cli.reports.base import HeadClasses
from scalenet_cli.tasks.image_classification.data.fingerprint import split_record
from scalenet_cli.tasks.image_classification.data.preprocessing import resolve_preprocessing
from scalenet_cli.tasks.image_classification.data.samples import (
    Batch,
    EvaluationSamples,
    collate,
    evaluation_transform,
)
from scalenet_cli.tasks.image_classification.data.splits import Split, open_split
from scalenet_cli.tasks.image_classification.evaluation.accuracy import Evaluation, evaluate
from scalenet_cli.tasks.image_classification.evaluation.guessing import guessed_share, is_guessing
from scalenet_cli.tasks.image_classification.evaluation.options import CONFUSION
from scalenet_cli.tasks.image_classification.evaluation.predictions import Predictions, Recorder
from scalenet_cli.tasks.image_classification.evaluation.report import CorruptImage, EvalReport
from scalenet_cli.tasks.image_classification.head import check_classes, image_channels
from scalenet_cli.tasks.image_classification.load_model import OpenedModel, load_classifier
from scalenet_cli.tasks.result_files import PARQUET, Row, write_confusion, write_csv, write_parquet
from scalenet_cli.training.compiling import compile_blocks, compiling
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.failures import explained
from scalenet_cli.training.join_ranks import joined, require_same_evaluation
from scalenet_cli.training.loaders import evaluation_loader
from scalenet_cli.training.world import this_world

if TYPE_CHECKING:
    from scalenet_cli.tasks.image_classification.evaluation.options import EvalOptions
    from scalenet_cli.tasks.requests import Progress

_MAX_CONFUSION: Final = 5000
_MAX_WORKERS: Final = 8


@dataclass(frozen=True, slots=True)
class Session:
    """What is evaluated, on what, and how. ``assumed`` says of classes what names do not tell."""

    target: str
    opened: OpenedModel
    split: Split
    config: Mapping[str, Any]
    devices: Devices
    how: "EvalOptions"
    classes: HeadClasses
    assumed: str | None


def run_evaluation(
    target: str, data: str, how: "EvalOptions", options: SourceOptions, progress: "Progress | None"
) -> EvalReport:
    """Opens, evaluates, writes and reports; see evaluate."""
    with joined(how.device) as devices:
        session = devices.run_on_all_ranks(
            lambda: _open(target, data, how=how, options=options, devices=devices)
        )
        require_same_evaluation(devices, target, lambda: _facts(session.split))
        return _run(session, progress)


def _facts(split: Split) -> dict[str, str]:
    record = split_record(split)
    return {"data": record.digest, "samples": f"{record.num_samples:,}"}


def _open(
    target: str, data: str, how: "EvalOptions", options: SourceOptions, devices: Devices
) -> Session:
    opened = use_target(target, load_classifier, options)
    config = resolve_preprocessing(opened.family.image_preparation(opened.model), how.preprocessing)
    channels = image_channels(config)
    if how.confusion is not None and opened.num_classes > _MAX_CONFUSION:
        raise OptionError(
            f"{CONFUSION} takes at most {_MAX_CONFUSION} classes, not {opened.num_classes}"
        )
    wanted = DataOptions(data, how.dataset, class_map=how.class_map)
    split = open_split(wanted, how.split, limit=how.limit, channels=channels)
    mapped = how.class_map is not None
    known = check_classes(split, opened.num_classes, opened.known, mapped=mapped)
    return Session(target, opened, split, config, devices, how, *known)


def _run(session: Session, progress: "Progress | None") -> EvalReport:
    how, devices, outputs = session.how, session.devices, session.opened.num_classes
    recorder = Recorder(
        session.split,
        outputs,
        torch.device("cpu") if devices.device.type == "mps" else devices.device,
        keep_images=how.predictions is not None,
        keep_confusion=how.confusion is not None,
    )
    found = _evaluate(session, recorder, progress)
    labels = _labels(session)
    if how.confusion is not None:
        matrix, path = recorder.confusion(devices), Path(how.confusion)
        devices.run_on_main_rank(lambda: write_confusion(path, matrix, labels))
    if how.predictions is not None:
        images, target = recorder.images(devices), Path(how.predictions)
        devices.run_on_main_rank(lambda: _write_predictions(target, images, session, labels))
    return _report(session, found)


def _evaluate(session: Session, recorder: Recorder, progress: "Progress | None") -> Evaluation:
    how, devices, model = session.how, session.devices, session.opened.model
    loader = evaluation_loader(
        EvaluationSamples(session.split, evaluation_transform(dict(session.config))),
        len(session.split),
        collate,
        devices,
        batch_size=how.batch_size,
        workers=_workers(session),
    )
    compiled = compiling() if how.compile else nullcontext()
    advice = f"use a smaller --batch-size than {how.batch_size}"
    with explained(memory=advice, worker=f"{advice}, or fewer --workers"), compiled:
        model.to(devices.device)
        if how.channels_last:
            model.to(memory_format=torch.channels_last)
        if how.compile:
            compile_blocks(model, session.opened.family)
        return evaluate(
            model,
            _ticking(loader, len(loader), progress if devices.is_main else None),
            devices,
            sample=torch.zeros(session.config["input_size"]),
            precision=how.precision,
            skip_corrupt=how.skip_corrupt,
            channels_last=how.channels_last,
            observe=recorder,
        )


def _workers(session: Session) -> int:
    if session.how.workers is not None:
        return session.how.workers
    there = len(os.sched_getaffinity(0)) if "sched_getaffinity" in dir(os) else os.cpu_count() or 1
    beside = this_world().num_local_ranks
    batches = -(-len(session.split) // (session.how.batch_size * session.devices.num_ranks))
    # A single batch is read sooner than a process starts.
    return min(_MAX_WORKERS, max(1, there // beside)) if batches > 1 else 0


def _ticking(loader: Iterable[Batch], total: int, progress: "Progress | None") -> Iterator[Batch]:
    for done, batch in enumerate(loader, start=1):
        yield batch
        if progress is not None:
            progress(done, total)


def _labels(session: Session) -> list[str]:
    """The name of every output, or its number where it has none."""
    names = {target: name for name, target in _named(session).items()}
    return [names.get(target, str(target)) for target in range(session.opened.num_classes)]


def _named(session: Session) -> dict[str, int]:
    """The classes that model or data have names for, and not those that are only guessed."""
    known = session.opened.known
    return {**({} if known.guessed else known.names), **session.split.classes}


def _write_predictions(
    path: Path, images: Predictions, session: Session, labels: list[str]
) -> None:
    named = bool(_named(session))
    columns = ["file", "target", "prediction"]
    columns += ["target_name", "prediction_name"] if named else []
    columns += ["correct", "probability", "loss"]
    rows: list[Row] = []
    for index, target, best, share, loss in zip(
        images.indices.tolist(),
        images.targets.tolist(),
        images.predictions.tolist(),
        images.probabilities.tolist(),
        images.losses.tolist(),
        strict=True,
    ):
        names = (labels[target], labels[best]) if named else ()
        name = session.split.name(index)
        rows.append((name, target, best, *names, target == best, share, loss))
    write = write_parquet if path.suffix.lower() == PARQUET else write_csv
    with staged_file(path) as staging:
        write(staging, columns, rows)


def _assumption(session: Session, assumed: str, found: Evaluation) -> str:
    """What is assumed of the classes, and whether the accuracy speaks against it."""
    guess = guessed_share(session.split, session.opened.num_classes)
    if not is_guessing(found.top1 / 100, guess, found.num_samples):
        return assumed
    return (
        f"{assumed}. It seems so: always answering the most frequent class would be right for "
        f"{100 * guess:.2f} % of the images"
    )


def _report(session: Session, found: Evaluation) -> EvalReport:
    how, split = session.how, session.split
    notes = list(session.opened.notes)
    if session.assumed is not None:
        notes.append(_assumption(session, session.assumed, found))
    if split.left_out:
        some = ", ".join(split.left_out[:5]) + (" ..." if len(split.left_out) > 5 else "")
        notes.append(
            f"{len(split.left_out)} folders are not in the class map and were left out: {some}"
        )
    if found.corrupt:
        notes.append(f"{len(found.corrupt)} images cannot be decoded and were left out")
    return EvalReport(
        target=session.target,
        data=split.place,
        architecture=session.opened.architecture,
        num_images=found.num_samples,
        num_corrupt=len(found.corrupt),
        num_classes=session.opened.num_classes,
        classes=session.classes,
        correct1=found.correct1,
        correct5=found.correct5,
        top1=found.top1,
        top5=found.top5,
        loss=found.loss,
        seconds=found.seconds,
        images_per_second=found.num_samples / found.seconds,
        device=session.devices.device.type,
        num_processes=session.devices.num_ranks,
        precision=how.precision,
        batch_size=how.batch_size,
        preprocessing=dict(session.config),
        corrupt=tuple(CorruptImage(name=c.name, reason=c.reason) for c in found.corrupt),
        files=tuple(str(path) for path in (how.confusion, how.predictions) if path is not None),
        notes=tuple(notes),
    )
