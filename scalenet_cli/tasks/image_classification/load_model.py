"""Image classifiers with weights, from a bundle, a run or a plain checkpoint."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.errors import OptionError
from scalenet_cli.families import FAMILIES
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Family
from scalenet_cli.families.sources import open_source
from scalenet_cli.models.describe import build_base, refuse_source_options, stage_shapes
from scalenet_cli.models.load import load_bundle
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.resolve import plain_layout
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.tasks.image_classification.data.class_names import KnownClasses
from scalenet_cli.tasks.image_classification.known_classes import bundle_classes, source_classes


@dataclass(frozen=True, slots=True)
class OpenedModel:
    """A model with weights, in evaluation mode, in float32.

    ``num_classes`` is the number of its outputs, and ``known`` which classes they are.
    """

    model: nn.Module
    family: Family
    architecture: str
    num_classes: int
    layout: Layout
    known: KnownClasses = field(default_factory=KnownClasses)
    notes: tuple[str, ...] = ()


def open_model(target: str, options: SourceOptions | None = None) -> OpenedModel:
    """The model of a bundle, of a run (its best), or of anything that `scalenet expand` takes.

    Raises:
        ScalenetError: the target cannot be used, or is no image classifier.
    """
    options = options or SourceOptions()
    folder = bundle_folder(Path(target))
    opened = _bundle(folder, options) if is_bundle(folder) else _source(target, options)
    # A tied module is converted once, and stays one object.
    opened.model.float().eval()
    return opened


def _bundle(folder: Path, options: SourceOptions) -> OpenedModel:
    refuse_source_options(str(folder), options)
    _require_images(read_manifest(folder).source.family, str(folder))
    loaded = load_bundle(folder)
    manifest = loaded.bundle.manifest
    num_classes = _num_classes(loaded.model, str(folder))
    known = bundle_classes(manifest, num_classes)
    name = manifest.source.architecture
    return OpenedModel(loaded.model, loaded.family, name, num_classes, loaded.layout, known)


def _source(target: str, options: SourceOptions) -> OpenedModel:
    source = open_source(
        target,
        arch=options.arch,
        arguments=options.model_kwargs,
        random_seed=options.random_seed,
    )
    architecture = source.architecture
    _require_images(architecture.family, target)
    family = find_family(architecture.family)
    model = build_base(architecture, family, source, target)
    num_classes = _num_classes(model, target)
    set_parameters(model, {key: tensor.read() for key, tensor in source.tensors.items()})
    family.finish(model, Path(target), ())
    layout = plain_layout(stage_shapes(family, model))
    known = source_classes(source, num_classes, is_random=options.random_weights)
    return OpenedModel(model, family, architecture.name, num_classes, layout, known, source.notes)


def _require_images(family: str, where: str) -> None:
    if family not in FAMILIES or not find_family(family).has_classifier:
        raise OptionError(f"a model of the family {family} does not classify images", where=where)


def _num_classes(model: nn.Module, where: str) -> int:
    outputs = model.num_classes
    assert isinstance(outputs, int)
    if outputs == 0:
        raise OptionError("the model has no classes: its head was left out", where=where)
    return outputs
