"""What ``torch.save`` wrote, read without running code from it and without reading its tensors."""

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scalenet_cli.errors import CheckpointUnreadable, CheckpointUnsafe, UnsupportedTensor
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.tensors import FileTensor, SourceTensor, hold, spec_of

# The order in which timm looks for the state dict: an EMA wins over the raw weights.
WRAPPERS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
PREFIXES: Final = ("module.", "_orig_mod.")
# A damaged or hostile pickle fails in many ways inside torch.load.
_DAMAGED: Final = (
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    MemoryError,
    OSError,
    struct.error,
    zipfile.BadZipFile,
)


def read_pickle(path: Path) -> Checkpoint:
    """The state dict of a ``.pth`` file, with the place of every tensor.

    Raises:
        CheckpointUnsafe: the file would have to run code.
        CheckpointUnreadable: not a checkpoint, or damaged.
    """
    addressable = _has_plain_records(path)
    content = _load(path, fake=addressable)
    state, wrapper, beside, notes = _state_dict(content, str(path))
    for key, tensor in state.items():
        _check_tensor(key, tensor, str(path))
    if addressable:
        places = {key: _place(path, key, tensor) for key, tensor in state.items()}
        if None in places.values():
            # A view that is not contiguous has no bytes of its own in the file.
            state = _state_dict(_load(path, fake=False), str(path))[0]
    else:
        places = dict.fromkeys(state)
    tensors: dict[str, SourceTensor] = {
        key: places[key] or hold(tensor, key) for key, tensor in state.items()
    }
    name = content.get("arch")
    return Checkpoint(
        str(path),
        _strip_prefix(tensors),
        wrapper=wrapper,
        beside=beside,
        architecture=name if isinstance(name, str) else None,
        notes=notes,
    )


def _has_plain_records(path: Path) -> bool:
    """Whether tensors lie uncompressed and little-endian in a zip file, as torch writes them."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            order = next((r for r in records if r.filename.endswith("/byteorder")), None)
            little = order is None or archive.read(order).strip() == b"little"
    except _DAMAGED as error:
        raise _unreadable(path, error) from None
    return little and all(record.compress_type == zipfile.ZIP_STORED for record in records)


def _load(path: Path, *, fake: bool) -> Mapping[str, Any]:
    try:
        # timm's training script saves its options as a Namespace, which runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols and sparse tensors
            if fake:
                with FakeTensorMode():
                    content = torch.load(path, map_location="cpu", weights_only=True)
            else:
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if re.search(r"Unsupported (global|class)|not an allowed global|GLOBAL", str(error)):
            raise CheckpointUnsafe(
                "the file holds Python objects besides tensors; reading them would run code",
                where=str(path),
                hint="if you trust its author, load it where it was made and save the state dict "
                "with safetensors.torch.save_file(model.state_dict(), 'model.safetensors')",
            ) from None
        raise _unreadable(path, error) from None
    except _DAMAGED as error:
        raise _unreadable(path, error) from None
    if not isinstance(content, Mapping):
        kind = "tensor" if isinstance(content, torch.Tensor) else type(content).__name__
        raise CheckpointUnreadable(
            f"the file holds a {kind}, not a state dict",
            where=str(path),
            hint="save a state dict: torch.save(model.state_dict(), path)",
        )
    return content


def _unreadable(path: Path, error: BaseException) -> CheckpointUnreadable:
    first = (str(error).splitlines() or [""])[0][:200]
    return CheckpointUnreadable(
        f"not a PyTorch checkpoint, or damaged: {first or type(error).__name__}",
        where=str(path),
        hint="get the file again and compare its sha256 with its author's",
    )


def _state_dict(
    content: Mapping[str, Any], where: str
) -> tuple[dict[str, torch.Tensor], tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """The tensors, the keys that lead to them, what lies beside them, and what was decided."""
    wrapper: list[str] = []
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    found: Mapping[str, Any] = content
    while key := next((w for w in WRAPPERS if isinstance(found.get(w), Mapping)), None):
        if not wrapper:
            beside = tuple(str(other) for other in found if other != key)
            weights = [w for w in WRAPPERS if isinstance(found.get(w), Mapping)]
            if len(weights) > 1:
                notes = (f"{where} holds {' and '.join(weights)}; {key} is used, as in timm",)
        wrapper.append(key)
        found = found[key]
        if len(wrapper) > 4:
            break
    state = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not state:
        raise CheckpointUnreadable(
            f"the file holds no tensors; its keys are {', '.join(map(str, list(found)[:6]))}",
            where=where,
            hint="save a state dict: torch.save(model.state_dict(), path)",
        )
    return state, tuple(wrapper), beside, notes


def _check_tensor(key: str, tensor: torch.Tensor, where: str) -> None:
    """The tensor has plain values of a type that a bundle can hold."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise UnsupportedTensor(
            f"{key} is a {kind} tensor",
            where=where,
            hint="save it as a dense float tensor with tensor.to_dense() or tensor.dequantize()",
        )
    try:
        spec_of(tensor, key)
    except UnsupportedTensor as error:
        error.where = where
        raise


def _place(path: Path, key: str, tensor: torch.Tensor) -> FileTensor | None:
    if not tensor.is_contiguous():
        return None
    spec = spec_of(tensor, key)
    # torch records where a storage lies when a checkpoint is loaded under FakeTensorMode.
    start = tensor.untyped_storage()._checkpoint_offset
    if start is None:
        return None
    offset = start + int(tensor.storage_offset()) * tensor.element_size()
    if offset + spec.num_bytes > path.stat().st_size:
        raise CheckpointUnreadable(
            f"{key} ends behind the end of the file",
            where=str(path),
            hint="the file is truncated or damaged: get it again",
        )
    return FileTensor(spec, path, offset)


def _strip_prefix(tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
    """Without what DistributedDataParallel and torch.compile put before every key."""
    for prefix in PREFIXES:
        while all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors
