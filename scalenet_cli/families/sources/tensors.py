"""Where the bytes of a checkpoint's tensors are, and how to stream them. No torch at import."""

import io
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalenet_cli.errors import CheckpointIncomplete, CheckpointUnreadable, UnsupportedTensor

if TYPE_CHECKING:
    import torch

# safetensors' names; the file format is little-endian.
DTYPE_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
}
TORCH_NAMES: Final[Mapping[str, str]] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
FLOATS: Final = ("F64", "F32", "F16", "BF16")
# PyTorch allocates tensors so. On others a kernel may add up in another order: 3e-8 of difference
# between a model whose tensors are mapped from a file and one whose tensors were allocated.
ALIGNMENT: Final = 64
# Small enough for the processor's cache and for malloc to use the same pages again: with 4 MiB,
# mapped anew for every tensor, copying 2.5 GB cost twice the system time.
CHUNK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type and shape of a tensor, with safetensors' dtype names."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)

    @property
    def num_bytes(self) -> int:
        """Size of the raw data."""
        return self.num_elements * DTYPE_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor whose raw, contiguous, little-endian bytes lie at an offset of a file."""

    spec: TensorSpec
    path: Path
    offset: int

    def chunks(self) -> Iterator[memoryview]:
        """The raw bytes, a little at a time; a chunk is valid until the next one is asked for.

        Raises:
            CheckpointIncomplete: the file ends before the tensor does.
        """
        left = self.spec.num_bytes
        buffer = memoryview(bytearray(min(left, CHUNK_BYTES)))
        with self._open() as file:
            file.seek(self.offset)
            while left:
                size = file.readinto(buffer[: min(left, CHUNK_BYTES)])
                if not size:
                    raise CheckpointIncomplete(
                        f"the file ends {left} bytes before its last tensor", where=str(self.path)
                    )
                left -= size
                yield buffer[:size]

    def _open(self) -> io.FileIO:
        try:
            return io.FileIO(self.path)
        except OSError as error:
            raise CheckpointUnreadable(
                f"the file cannot be read: {error.strerror}", where=str(self.path)
            ) from None

    def read(self) -> "torch.Tensor":
        """The tensor in memory of its own."""
        import torch

        # Allocated by PyTorch, and so aligned as its kernels are used to; a bytearray is not.
        tensor = torch.empty(self.spec.shape, dtype=getattr(torch, TORCH_NAMES[self.spec.dtype]))
        raw = memoryview(tensor.view(-1).view(torch.uint8).numpy().data)
        at = 0
        for chunk in self.chunks():
            raw[at : at + len(chunk)] = chunk
            at += len(chunk)
        return tensor


@dataclass(frozen=True, slots=True)
class HeldTensor:
    """A tensor that is in memory: random weights, or a format whose bytes cannot be addressed."""

    spec: TensorSpec
    tensor: "torch.Tensor"

    def chunks(self) -> Iterator[memoryview]:
        """The raw bytes."""
        import torch

        flat = self.tensor.detach().contiguous().view(-1)
        if flat.numel():
            yield memoryview(flat.view(torch.uint8).numpy().data)

    def read(self) -> "torch.Tensor":
        """The tensor."""
        return self.tensor


SourceTensor = FileTensor | HeldTensor


def spec_of(tensor: "torch.Tensor", key: str) -> TensorSpec:
    """Type and shape of a torch tensor.

    Raises:
        UnsupportedTensor: a type that safetensors files do not hold.
    """
    name = str(tensor.dtype).removeprefix("torch.")
    found = next((dtype for dtype, torch_name in TORCH_NAMES.items() if torch_name == name), None)
    if found is None:
        raise UnsupportedTensor(
            f"{key} has the type {name}, which a bundle cannot hold",
            hint="convert the checkpoint to float32, float16 or bfloat16",
        )
    return TensorSpec(found, tuple(tensor.shape))


def hold(tensor: "torch.Tensor", key: str) -> HeldTensor:
    """A torch tensor as a source tensor."""
    return HeldTensor(spec_of(tensor, key), tensor)


def require_little_endian() -> None:
    """Raw bytes are copied, not converted."""
    if sys.byteorder != "little":
        raise CheckpointUnreadable("this machine is big-endian, which is not supported")
