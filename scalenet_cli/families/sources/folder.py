"""Folders: a config.json, and weights in one file or in shards with an index."""

from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import (
    CheckpointIncomplete,
    CheckpointNotFound,
    CheckpointUnreadable,
)
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.json_text import parse_json
from scalenet_cli.families.sources.read_checkpoint import read_checkpoint, refuse_gguf
from scalenet_cli.families.sources.tensors import SourceTensor

MAX_CONFIG_BYTES: Final = 1_000_000
MAX_INDEX_BYTES: Final = 50_000_000
WEIGHTS: Final = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A JSON object from a file of limited size.

    Raises:
        CheckpointNotFound, CheckpointUnreadable: missing, too large, or no JSON object.
    """
    try:
        if path.stat().st_size > limit:
            raise CheckpointUnreadable(f"the file is larger than {limit} bytes", where=str(path))
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointNotFound("there is no such file", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(f"not readable as JSON: {error}", where=str(path)) from None
    if not isinstance(content, dict):
        raise CheckpointUnreadable("not a JSON object", where=str(path))
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's config.json."""
    if not (folder / "config.json").is_file():
        _refuse_gguf_alone(folder)
        raise CheckpointNotFound(
            "the folder has no config.json",
            where=str(folder),
            hint="give a checkpoint file, a Hugging Face folder, or a bundle",
        )
    return read_json(folder / "config.json", MAX_CONFIG_BYTES)


def has_weights(folder: Path) -> bool:
    """Whether the folder has weights under one of the usual names."""
    return any((folder / name).exists() for name in WEIGHTS)


def read_weights(folder: Path) -> Checkpoint:
    """All tensors of a folder; safetensors files win over pickles, as in transformers.

    Raises:
        CheckpointIncomplete: no weights, or a shard or tensor that the index names is missing.
    """
    name = next((name for name in WEIGHTS if (folder / name).exists()), None)
    if name is None:
        _refuse_gguf_alone(folder)
        raise CheckpointIncomplete(
            "the folder has no weights",
            where=str(folder),
            hint=f"looked for {', '.join(WEIGHTS)}",
        )
    if not name.endswith(".index.json"):
        return read_checkpoint(folder / name)
    return _read_shards(folder, folder / name)


def _refuse_gguf_alone(folder: Path) -> None:
    """A folder whose weights are a GGUF file."""
    for path in sorted(folder.glob("*.gguf")):
        refuse_gguf(path)


def _read_shards(folder: Path, index: Path) -> Checkpoint:
    weight_map = read_json(index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointUnreadable("the index has no weight_map", where=str(index))
    names = sorted({str(name) for name in weight_map.values()})
    for name in names:
        if Path(name).name != name or name in (".", ".."):
            raise CheckpointUnreadable(
                f"the index points outside its folder: {name}", where=str(index)
            )
        if not (folder / name).is_file():
            raise CheckpointIncomplete(
                f"the shard {name} is missing; the index names {len(names)}",
                where=str(index),
                hint="get the missing file again",
            )
    shards = {name: read_checkpoint(folder / name) for name in names}
    tensors: dict[str, SourceTensor] = {}
    for key, name in weight_map.items():
        if key not in shards[name].tensors:
            raise CheckpointIncomplete(f"{name} has no tensor {key}", where=str(index))
        tensors[key] = shards[name].tensors[key]
    listed = sum(len(shard.tensors) for shard in shards.values())
    if listed != len(tensors):
        raise CheckpointUnreadable(
            f"the shards hold {listed} tensors, but the index names {len(tensors)}",
            where=str(index),
        )
    files = tuple(file for shard in shards.values() for file in shard.files)
    return Checkpoint(str(folder), tensors, files)
