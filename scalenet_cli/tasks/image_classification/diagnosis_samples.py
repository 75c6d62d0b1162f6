"""Image classifiers and images for a diagnosis."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from scalenet_cli.errors import ClassesDiffer, DataUnreadable
from scalenet_cli.measure.diagnosed_model import DiagnosedModel, require_room
from scalenet_cli.measure.model_outputs import Samples
from scalenet_cli.models.target import use_target
from scalenet_cli.tasks.image_classification.data.preprocessing import resolve_preprocessing
from scalenet_cli.tasks.image_classification.data.samples import (
    EvaluationSamples,
    collate,
    evaluation_transform,
)
from scalenet_cli.tasks.image_classification.data.splits import Split, open_split
from scalenet_cli.tasks.image_classification.evaluation.accuracy import require_readable
from scalenet_cli.tasks.image_classification.head import check_classes, image_channels
from scalenet_cli.tasks.image_classification.load_model import load_classifier
from scalenet_cli.training.data import DataOptions

if TYPE_CHECKING:
    from scalenet_cli.tasks.requests import Diagnosis

DEFAULT_BATCH = 16


def open_images(work: "Diagnosis", target: str, *, held: int = 0) -> DiagnosedModel:
    """A classifier and the split's images, prepared as the classifier wants them.

    ``held`` is what samples and features of another model take, in bytes.

    Raises:
        ScalenetError: the target or the data cannot be used, or do not fit each other.
    """
    how = work.how
    changes = {**how.preprocessing, **work.flags.preprocessing}
    opened = use_target(target, load_classifier, work.options_of(target))
    config = resolve_preprocessing(opened.family.image_preparation(opened.model), changes)
    channels = image_channels(config)
    wanted = DataOptions(work.data, how.dataset, class_map=how.class_map)
    split = open_split(wanted, how.split or "validation", limit=how.limit, channels=channels)
    mapped = how.class_map is not None
    _, assumed = check_classes(split, opened.num_classes, opened.known, mapped=mapped)
    widths = [stage.width for stage in opened.family.stages(opened.model)]
    channels, height, width = config["input_size"]
    needed = require_room(
        len(split),
        4 * channels * height * width,
        layout=opened.layout,
        widths=widths,
        cka_tokens=how.cka_tokens,
        held=held,
    )
    batches = tuple(_batches(work, split, config, opened.num_classes))
    if not batches:
        raise DataUnreadable("no image could be read", where=split.place)
    return DiagnosedModel(
        name=target, model=opened.model, family=opened.family, architecture=opened.architecture,
        layout=opened.layout, batches=batches, place=split.place, preparation=config,
        notes=(*opened.notes, *filter(None, [assumed]), *_told(split, sum(map(len, batches)))),
        held_bytes=needed,
    )  # fmt: skip


def _batches(
    work: "Diagnosis", split: Split, config: dict[str, Any], num_classes: int
) -> Iterator[Samples]:
    images = EvaluationSamples(split, evaluation_transform(config))
    size = work.how.batch_size or DEFAULT_BATCH
    first = 0
    for begin in range(0, len(split), size):
        batch = collate([images[at] for at in range(begin, min(begin + size, len(split)))])
        list(require_readable(batch, skip=work.how.skip_corrupt))
        if not len(batch.targets):
            continue
        if not 0 <= int(batch.targets.min()) <= int(batch.targets.max()) < num_classes:
            raise ClassesDiffer(
                f"a target is {int(batch.targets.max())}, but the model has {num_classes} classes",
                where=split.place,
            )
        yield Samples({"x": batch.images}, batch.targets, None, first)
        first += len(batch.targets)


def _told(split: Split, num_read: int) -> Iterator[str]:
    if num_read < len(split):
        yield f"{len(split) - num_read} images cannot be decoded and were left out"
    if split.left_out:
        yield f"{len(split.left_out)} folders are not in the class map and were left out"
