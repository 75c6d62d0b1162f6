"""Sets up a run of an image classifier: splits, classes, and a new head where they need one."""

from collections.abc import Mapping

from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import Bundle
from scalenet_cli.bundle.trained import Start
from scalenet_cli.measure.flops import count_flops
from scalenet_cli.measure.params import count_parameters
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.models.load import load_weights
from scalenet_cli.models.trained_model import TrainedModel, fill_new_head
from scalenet_cli.tasks.image_classification.data.fingerprint import content_record, split_record
from scalenet_cli.tasks.image_classification.head import Head, fit_classes, image_facts, open_splits
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.tasks.image_classification.training_task import ImageTask
from scalenet_cli.tasks.requests import Parts, Request
from scalenet_cli.training.contents import DataContents
from scalenet_cli.training.run_record import RunRecord
from scalenet_cli.training.trained_groups import train_set
from scalenet_cli.version import TOOL


def prepare_images(request: Request, recipe: ImageRecipe) -> Parts:
    """Task, record and model of a run; the model's weights are read when they are asked for.

    Raises:
        DataError, OptionError: the data cannot be used, or do not fit the model.
    """
    data, flags = request.data, request.flags
    described = request.described
    facts = image_facts(described.target, described.model)
    train, val = open_splits(data, facts.channels)
    head = fit_classes(
        facts, train, wanted=flags.num_classes, mapped=data.class_map is not None,
        reset=flags.reset_head,
    )  # fmt: skip
    record = RunRecord(
        tool=TOOL,
        bundle=request.source.manifest.digest,
        train=split_record(train),
        val=split_record(val),
        num_classes=head.num_classes,
        new_head=head.is_new,
        classes=dict(train.classes),
    )
    task = ImageTask(
        recipe, train, val, config=dict(facts.config), num_classes=head.num_classes,
        skip_corrupt=data.skip_corrupt,
    )  # fmt: skip
    return Parts(
        start=Start(request.source, request.source.manifest),
        task=task,
        record=record,
        subject=lambda: _trained_model(request, recipe, head, train.classes),
        notes=() if head.note is None else (head.note,),
        look=lambda read: DataContents(
            train=content_record(train, read=read), val=content_record(val, read=read)
        ),
        classes=head.classes,
    )


def _trained_model(
    request: Request, recipe: ImageRecipe, head: Head, classes: Mapping[str, int]
) -> TrainedModel:
    """The model with the head that the data need."""
    loaded = load_weights(request.described, request.start)
    if head.is_new:
        loaded = loaded.with_head(head.num_classes)
        fill_new_head(loaded.model, loaded.groups, recipe.seed)
    groups = train_set(loaded.groups, loaded.train, recipe, new_head=head.is_new)
    # Names that were assumed of a head that learns nothing are no more certain after the run.
    is_known = head.classes != "assumed" or "head" in groups
    return TrainedModel(
        model=loaded.model,
        family=loaded.family,
        layout=loaded.layout,
        groups=loaded.groups,
        train=groups,
        base_keys=loaded.base_keys,
        bundle=request.start,
        manifest=_recount(request.start, loaded) if head.is_new else request.start.manifest,
        num_classes=head.num_classes,
        new_head=head.is_new,
        classes=classes if is_known else {},
    )


def _recount(start: Bundle, loaded: DescribedModel) -> Manifest:
    """The manifest with the numbers of a model whose head is new."""
    size = loaded.family.default_input_size(loaded.model)
    changes = {
        "parameters": count_parameters(loaded.model, loaded.layout, loaded.groups, loaded.train),
        "flops": count_flops(loaded.model, loaded.layout, loaded.family, size),
    }
    return start.manifest.model_copy(update=changes)
