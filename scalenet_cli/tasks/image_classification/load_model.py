"""Image classifiers with weights."""

from dataclasses import dataclass, field

from torch import nn

from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.models.load import load_target
from scalenet_cli.models.target import Target
from scalenet_cli.plan.layout import Layout
from scalenet_cli.tasks.image_classification import NAME
from scalenet_cli.tasks.image_classification.data.class_names import KnownClasses
from scalenet_cli.tasks.image_classification.known_classes import known_classes


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


def load_classifier(target: Target) -> OpenedModel:
    """The model of a target.

    Raises:
        ScalenetError: its weights cannot be used, or it has no classes.
    """
    if target.family.task != NAME:
        raise OptionError(
            f"a model of the family {target.family.name} does not classify images",
            where=target.reference,
        )
    loaded = load_target(target)
    # A tied module is converted once, and stays one object.
    loaded.model.float().eval()
    num_classes = _num_classes(loaded.model, target.reference)
    return OpenedModel(
        model=loaded.model,
        family=loaded.family,
        architecture=loaded.architecture.name,
        num_classes=num_classes,
        layout=loaded.layout,
        known=known_classes(target, num_classes),
        notes=target.notes,
    )


def _num_classes(model: nn.Module, where: str) -> int:
    outputs = model.num_classes
    assert isinstance(outputs, int)
    if outputs == 0:
        raise OptionError("the model has no classes: its head was left out", where=where)
    return outputs
