"""A checkpoint, understood: its architecture, and its tensors under the model's keys."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalenet_cli.errors import ArchitectureMismatch
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources.safetensors_file import SafetensorsFile
from scalenet_cli.families.sources.tensors import SourceTensor

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Source:
    """What a scaled model is made from.

    Attributes:
        architecture: builds the model without weights.
        tensors: the model's own key -> tensor; empty where no weights were asked for.
        reference: what the user named, without folders, so that equal input gives equal bundles.
        kind: ``safetensors``, ``pytorch`` or ``random``.
        renamed: the model's key -> the author's key, where they differ.
        dropped: the author's keys of buffers that the model derives itself, and of tensors that
            are no part of it.
        duplicates: the author's key -> the model's key of the tensor that it repeats.
        verbatim: files that can be copied whole; empty where keys or tensors change.
        carried: files beside the weights that belong to the model, such as a tokenizer.
        preprocessing: how inputs are prepared, with timm's names.
        label_names: the classes in the order of the outputs, where the source names them.
        notes: decisions that the user should hear of.
    """

    architecture: Architecture
    tensors: Mapping[str, SourceTensor]
    reference: str = ""
    kind: Literal["safetensors", "pytorch", "random"] = "safetensors"
    renamed: Mapping[str, str] = field(default_factory=dict)
    dropped: tuple[str, ...] = ()
    duplicates: Mapping[str, str] = field(default_factory=dict)
    verbatim: tuple[SafetensorsFile, ...] = ()
    carried: tuple[Path, ...] = ()
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def num_bytes(self) -> int:
        """Raw bytes of all tensors."""
        return sum(tensor.spec.num_bytes for tensor in self.tensors.values())


def check_tensors(model: "nn.Module", tensors: Mapping[str, SourceTensor], where: str) -> None:
    """The model's parameters and the tensors have the same names and shapes.

    Raises:
        ArchitectureMismatch: what is missing, unexpected, or of another shape.
    """
    expected = {key: tuple(parameter.shape) for key, parameter in model.named_parameters()}
    wrong = [
        f"{key} is {_shape(tensors[key].spec.shape)}, but the architecture has {_shape(shape)}"
        for key, shape in expected.items()
        if key in tensors and tensors[key].spec.shape != shape
    ]
    missing = [key for key in expected if key not in tensors]
    unexpected = [key for key in tensors if key not in expected]
    facts = wrong[:2]
    if missing:
        facts.append(f"{len(missing)} tensors are missing, such as {missing[0]}")
    if unexpected:
        facts.append(f"{len(unexpected)} tensors are unexpected, such as {unexpected[0]}")
    if facts:
        raise ArchitectureMismatch(
            f"the architecture and the weights disagree: {'; '.join(facts)}",
            where=where,
            hint="get the config that belongs to these weights, or, for a timm model, name the "
            "right architecture with --arch and --model-kwargs",
        )


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
