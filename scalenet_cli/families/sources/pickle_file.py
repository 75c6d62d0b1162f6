"""What ``torch.save`` wrote, read without running code from it and without reading its tensors."""

import argparse
import pickle
import pickletools
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from scalenet_cli.errors import CheckpointUnreadable, CheckpointUnsafe, UnsupportedTensor
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.state_dicts import find_state, strip_wrapping
from scalenet_cli.families.sources.tensors import FileTensor, SourceTensor, hold, spec_of

_MAX_EXPANSION: Final = 20
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
    """The state dict of a ``.pth`` file, with the place of every tensor where that is certain.

    Raises:
        CheckpointUnsafe: the file would have to run code.
        CheckpointUnreadable: not a checkpoint, or damaged.
        UnsupportedTensor: a tensor without plain values.
    """
    places = _places(path)
    content = places.content if places else _load(path, fake=False)
    found_state = find_state(content, str(path))
    state = found_state.tensors
    for key, tensor in state.items():
        _check_tensor(key, tensor, str(path))
    found = {key: places.find(key, tensor) if places else None for key, tensor in state.items()}
    if places and None in found.values():
        # A view that is not contiguous has no bytes of its own in the file.
        state = find_state(_load(path, fake=False), str(path)).tensors
        for key, tensor in state.items():
            _check_tensor(key, tensor, str(path))
    if not places or None in found.values():
        _check_storages(path, state)
    tensors: dict[str, SourceTensor] = {
        key: found[key] or hold(tensor, key) for key, tensor in state.items()
    }
    name = content.get("arch")
    return Checkpoint(
        str(path),
        strip_wrapping(tensors),
        wrapper=found_state.wrapper,
        beside=found_state.beside,
        architecture=name if isinstance(name, str) else None,
        options=_options(content.get("args")),
        notes=found_state.notes,
    )


def _options(stated: object) -> Mapping[str, object]:
    """What a training script saved of its command line, as it stands: nothing of it is checked.

    Only ``vars`` of a Namespace is looked at, and its keys may be anything.
    """
    entries = vars(stated) if type(stated) is argparse.Namespace else stated
    if not isinstance(entries, Mapping):
        return {}
    return {key: value for key, value in entries.items() if isinstance(key, str)}


@dataclass(frozen=True, slots=True)
class _Places:
    """A checkpoint loaded without its data, from an archive that is laid out as torch writes it."""

    path: Path
    content: Mapping[str, Any]
    records: Mapping[int, int]  # where a storage's bytes start -> how many there are

    def find(self, key: str, tensor: torch.Tensor) -> FileTensor | None:
        """The tensor's bytes in the file, where it has any of its own."""
        if not tensor.is_contiguous():
            return None
        spec = spec_of(tensor, key)
        start = tensor.untyped_storage()._checkpoint_offset
        if start is None or int(start) not in self.records:
            return None
        inside = int(tensor.storage_offset()) * tensor.element_size()
        if inside + spec.num_bytes > self.records[int(start)]:
            # torch would enlarge the storage with whatever is in memory.
            raise CheckpointUnreadable(
                f"{key} claims more bytes than its record has",
                where=str(self.path),
                hint="the file is damaged: get it again",
            )
        return FileTensor(spec, self.path, int(start) + inside)


def _places(path: Path) -> _Places | None:
    """The checkpoint without its data, or None where only a real load is certain to be right.

    Under FakeTensorMode torch *computes* where a storage lies, from the order in which the pickle
    names the storages. An archive that another tool packed again may have another order, so the
    computed places count only where the archive's directory says the same.
    """
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            order = next((r for r in records if r.filename.endswith("/byteorder")), None)
            if order is not None and archive.read(order).strip() != b"little":
                return None
            pickled = next(r for r in records if r.filename.endswith("/data.pkl"))
            named = _storage_names(archive.read(pickled))
        content = _load(path, fake=True)
        starts = _data_starts(path, records, named)
    except (*_DAMAGED, StopIteration, UnsupportedTensor, CheckpointUnreadable):
        return None
    return None if starts is None else _Places(path, content, starts)


def _storage_names(data: bytes) -> list[str]:
    """Names of storages in the order in which a pickle mentions them first."""
    names = (
        argument
        for operation, argument, _ in pickletools.genops(data)
        if "UNICODE" in operation.name and isinstance(argument, str) and argument.isdecimal()
    )
    return list(dict.fromkeys(names))


def _data_starts(
    path: Path, records: list[zipfile.ZipInfo], named: list[str]
) -> dict[int, int] | None:
    """Where the data of each storage starts, and its size, if names and order are torch's own."""
    data = sorted((r for r in records if "/data/" in r.filename), key=lambda r: r.header_offset)
    plain = all(r.compress_type == zipfile.ZIP_STORED for r in data)
    if not plain or [r.filename.rpartition("/")[2] for r in data] != named:
        return None
    if named != [str(number) for number in range(len(named))]:
        return None
    starts = {}
    with path.open("rb") as file:
        for record in data:
            file.seek(record.header_offset + 26)
            lengths = struct.unpack("<HH", file.read(4))
            starts[record.header_offset + 30 + sum(lengths)] = record.file_size
    return starts


def _load(path: Path, *, fake: bool) -> Mapping[str, Any]:
    if not fake:
        _check_expansion(path)
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
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if is_pickle or re.search(r"Unsupported (global|class)|GLOBAL", str(error)):
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


def _check_expansion(path: Path) -> None:
    """A compressed archive does not unpack to many times its size: torch never compresses."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(record.file_size for record in archive.infolist())
    except _DAMAGED as error:
        raise _unreadable(path, error) from None
    if unpacked > _MAX_EXPANSION * path.stat().st_size:
        raise CheckpointUnreadable(
            f"the file has {path.stat().st_size} bytes, but claims to unpack to {unpacked}",
            where=str(path),
        )


def _unreadable(path: Path, error: BaseException) -> CheckpointUnreadable:
    first = (str(error).splitlines() or [""])[0][:200]
    if isinstance(error, pickle.UnpicklingError):
        first = "its content is no pickle of tensors"  # torch's own text advises weights_only=False
    return CheckpointUnreadable(
        f"not a PyTorch checkpoint, or damaged: {first or type(error).__name__}",
        where=str(path),
        hint="get the file again and compare its sha256 with its author's",
    )


def _check_storages(path: Path, state: Mapping[str, torch.Tensor]) -> None:
    """No storage is larger than its record: torch enlarges one with whatever is in memory."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        records = Counter(r.file_size for r in archive.infolist() if "/data/" in r.filename)
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in state.values()
    }
    unknown = Counter(size for size in storages.values() if size) - records
    if unknown:
        raise CheckpointUnreadable(
            f"a tensor claims {next(iter(unknown))} bytes, and no record has so many",
            where=str(path),
            hint="the file is damaged: get it again",
        )


def _check_tensor(key: str, tensor: torch.Tensor, where: str) -> None:
    """The tensor has plain values of a type that a bundle can hold."""
    if tensor.device.type == "meta" and not isinstance(tensor, FakeTensor):
        raise CheckpointUnreadable(f"{key} was saved without its values", where=where)
    if tensor.layout != torch.strided or tensor.is_quantized:
        kind = "quantised" if tensor.is_quantized else str(tensor.layout).removeprefix("torch.")
        raise UnsupportedTensor(
            f"{key} is a {kind} tensor",
            where=where,
            hint="save it as a dense float tensor with tensor.to_dense() or tensor.dequantize()",
        )
    claimed, held = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if claimed > held:
        raise CheckpointUnreadable(
            f"{key} claims {claimed} bytes, but the file holds {held} for it",
            where=where,
            hint="save a copy of its own: tensor.contiguous()",
        )
    try:
        spec_of(tensor, key)
    except UnsupportedTensor as error:
        error.where = where
        raise
