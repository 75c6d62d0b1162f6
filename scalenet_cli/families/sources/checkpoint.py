"""A checkpoint as its author named it: keys, tensors, files, and what it says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from scalenet_cli.families.sources.safetensors_file import SafetensorsFile
from scalenet_cli.families.sources.tensors import SourceTensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Tensors under their author's keys.

    Attributes:
        where: the path, for messages.
        files: the safetensors files that hold the tensors; empty for other formats.
        wrapper: keys of the dicts around the state dict, such as ``("model",)``.
        beside: other keys of the outermost dict.
        architecture: the name that timm's training script writes.
        options: that script's options, unchecked.
        prefix: what stood before every key and was removed, such as ``model.``.
        left_out: keys of tensors that are no part of the model.
        notes: decisions that the user should hear of.
    """

    where: str
    tensors: Mapping[str, SourceTensor]
    files: tuple[SafetensorsFile, ...] = ()
    wrapper: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    architecture: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> Literal["safetensors", "pytorch"]:
        """The file format."""
        return "safetensors" if self.files else "pytorch"
