"""One file of tensors, whichever of the supported formats it has."""

from pathlib import Path

from scalenet_cli.errors import CheckpointNotFound, CheckpointUnreadable, UnsupportedTensor
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.safetensors_file import read_header


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
    # Not at the top: a .safetensors file needs no torch.
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
