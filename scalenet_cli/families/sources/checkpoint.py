"""A checkpoint as its author named it: keys, tensors, files, and what it says about itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from scalenet_cli.errors import CheckpointNotFound, CheckpointUnreadable, UnsupportedTensor
from scalenet_cli.families.sources.safetensors_file import SafetensorsFile, read_header
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


def read_checkpoint(path: Path) -> Checkpoint:
    """One file of tensors: ``.safetensors``, or what ``torch.save`` writes.

    Raises:
        CheckpointError: missing, damaged, unsafe, or no checkpoint at all.
        UnsupportedTensor: a GGUF file.
    """
    if path.exists() and not path.is_file():
        raise CheckpointUnreadable("not a regular file", where=str(path))
    if path.suffix == ".safetensors":
        file = read_header(path)
        if not file.tensors:
            raise CheckpointUnreadable("the file holds no tensors", where=str(path))
        return Checkpoint(str(path), dict(file.tensors), (file,))
    if not path.is_file():
        raise CheckpointNotFound("there is no such file", where=str(path))
    refuse_gguf(path)
    from scalenet_cli.families.sources.pickle_file import read_pickle

    return read_pickle(path)


def refuse_gguf(path: Path) -> None:
    """llama.cpp's format, whatever the file is called.

    Raises:
        UnsupportedTensor: the file is of that format.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return
    raise UnsupportedTensor(
        "a GGUF file holds quantised weights, which cannot be tied and adapted",
        where=str(path),
        hint="use the folder that it was made from; or let transformers dequantise it: save "
        f"AutoModelForCausalLM.from_pretrained(FOLDER, gguf_file={path.name!r}), and AutoTokenizer "
        "likewise, with save_pretrained(NEW), and expand NEW",
    )
