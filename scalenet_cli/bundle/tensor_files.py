"""Streams tensors into safetensors files, hashing them on the way: O(chunk) memory."""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Final, Protocol

from scalenet_cli.bundle.manifest import FileEntry, Role, TensorEntry
from scalenet_cli.bundle.tensor_scan import TensorScan
from scalenet_cli.families.sources.safetensors_file import MAX_HEADER_BYTES
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.sources.tensors import ALIGNMENT, DTYPE_BYTES, TensorSpec, hold

if TYPE_CHECKING:
    import torch

MAX_SHARD_BYTES: Final = 5_000_000_000


class ByteSource(Protocol):
    """A tensor whose bytes can be streamed."""

    @property
    def spec(self) -> TensorSpec:
        """Type and shape."""
        ...

    def chunks(self) -> Iterator[memoryview]:
        """The raw little-endian bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Computed:
    """A tensor that is made when it is written, and forgotten after."""

    spec: TensorSpec
    compute: "Callable[[], torch.Tensor]"

    def chunks(self) -> Iterator[memoryview]:
        """The raw bytes."""
        yield from hold(self.compute(), "").chunks()


@dataclass(frozen=True, slots=True)
class TensorFile:
    """One file to be written; ``header`` is given where a file is copied."""

    name: str
    tensors: Mapping[str, ByteSource]
    header: bytes | None = None


def base_files(source: Source) -> list[TensorFile]:
    """The files that hold the source's tensors: copies where possible, new ones elsewhere."""
    if source.verbatim:
        total = len(source.verbatim)
        return [
            TensorFile(_name("model", index, total), file.tensors, file.header)
            for index, file in enumerate(source.verbatim)
        ]
    return new_files("model", source.tensors)


def new_files(stem: str, tensors: Mapping[str, ByteSource]) -> list[TensorFile]:
    """Tensors spread over as many files as the size limit asks for."""
    shards: list[dict[str, ByteSource]] = [{}]
    room = MAX_SHARD_BYTES
    for key, tensor in sorted(tensors.items()):
        if shards[-1] and tensor.spec.num_bytes > room:
            shards.append({})
            room = MAX_SHARD_BYTES
        shards[-1][key] = tensor
        room -= tensor.spec.num_bytes
    return [
        TensorFile(_name(stem, index, len(shards)), shard) for index, shard in enumerate(shards)
    ]


def _name(stem: str, index: int, total: int) -> str:
    if total == 1:
        return f"{stem}.safetensors"
    return f"{stem}-{index + 1:05d}-of-{total:05d}.safetensors"


class Cancelled(Exception):
    """Another part of the work failed, so this file is not finished."""


def write_file(folder: Path, role: Role, file: TensorFile, stop: Event | None = None) -> FileEntry:
    """Writes one safetensors file and makes it durable; returns its manifest entry."""
    tensors = file.tensors
    if file.header is None:
        tensors = dict(sorted(tensors.items(), key=_place))
    header = _pad(_build_header(tensors) if file.header is None else file.header)
    entries: dict[str, TensorEntry] = {}
    with (folder / file.name).open("wb", buffering=0) as out:
        out.write(len(header).to_bytes(8, "little") + header)
        for key, tensor in tensors.items():
            scan = TensorScan(tensor.spec)
            for chunk in tensor.chunks():
                if stop is not None and stop.is_set():
                    raise Cancelled
                scan.update(chunk)
                _write_all(out.fileno(), chunk)
            entries[key] = scan.entry()
        num_bytes = out.tell()
        os.fsync(out.fileno())
    return FileEntry(role=role, num_bytes=num_bytes, tensors=dict(sorted(entries.items())))


def _write_all(descriptor: int, chunk: memoryview) -> None:
    # An unbuffered write may be short, for instance when a signal arrives.
    left = chunk.cast("B")
    while left:
        left = left[os.write(descriptor, left) :]


def _build_header(tensors: Mapping[str, ByteSource]) -> bytes:
    header, at = {}, 0
    for key, tensor in tensors.items():
        end = at + tensor.spec.num_bytes
        header[key] = {
            "dtype": tensor.spec.dtype,
            "shape": list(tensor.spec.shape),
            "data_offsets": [at, end],
        }
        at = end
    return json.dumps(header, separators=(",", ":")).encode()


def _place(item: tuple[str, ByteSource]) -> tuple[bool, int, str]:
    """Where a tensor comes in a new file, in which no bytes may lie between two tensors.

    After those whose sizes are multiples of the alignment come the others, which move all that
    follows; of these wide types are first, so that every value is aligned to its own size.
    """
    key, tensor = item
    return tensor.spec.num_bytes % ALIGNMENT != 0, -DTYPE_BYTES[tensor.spec.dtype], key


def _pad(header: bytes) -> bytes:
    """Adds spaces, which the format allows, so that the first tensor is aligned in the file."""
    padded = header + b" " * (-(8 + len(header)) % ALIGNMENT)
    return padded if len(padded) <= MAX_HEADER_BYTES else header
