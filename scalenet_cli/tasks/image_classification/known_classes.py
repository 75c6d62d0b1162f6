"""Which class each output of a model answers: as a run, a source, or the number of them says."""

from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.families.sources import Source
from scalenet_cli.models.target import Target
from scalenet_cli.tasks.image_classification.data.class_names import (
    KnownClasses,
    guessed_classes,
    listed_classes,
)


def known_classes(target: Target, num_outputs: int) -> KnownClasses:
    """Those of a bundle or of a checkpoint, whose model has so many outputs."""
    if target.manifest is not None:
        return bundle_classes(target.manifest, num_outputs)
    assert target.source is not None
    return source_classes(target.source, num_outputs, is_random=target.options.random_weights)


def bundle_classes(manifest: Manifest, num_outputs: int) -> KnownClasses:
    """Those of the data that a bundle was trained on, or else its source's.

    A head that replaced the source's is of classes that nobody named, where the run has none.
    """
    trained, source = manifest.trained, manifest.source
    if trained is not None and trained.classes:
        return KnownClasses(trained.classes)
    if source.kind == "random" or (trained is not None and trained.new_head):
        return KnownClasses()
    named = listed_classes(source.preprocessing.get("label_names"), num_outputs)
    return named if named.names else guessed_classes(num_outputs)


def source_classes(source: Source, num_outputs: int, *, is_random: bool) -> KnownClasses:
    """Those that a checkpoint's config names, or ImageNet's where it has as many outputs."""
    if is_random:
        return KnownClasses()
    named = listed_classes(source.label_names, num_outputs)
    return named if named.names else guessed_classes(num_outputs)
