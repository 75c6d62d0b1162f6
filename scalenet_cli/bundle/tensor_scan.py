"""What is learned about a tensor while its bytes pass by: its digest, and values out of range."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final, final

from scalenet_cli.bundle.manifest import FileEntry, TensorEntry
from scalenet_cli.families.sources.tensors import CHUNK_BYTES, DTYPE_BYTES, TensorSpec
from scalenet_cli.reports.base import NonFiniteTensor

# The smallest bit pattern, without the sign, of an infinity or, where a type has none, of a NaN.
# All larger patterns are NaN as well.
_FIRST_NON_FINITE: Final[Mapping[str, int]] = {
    "F64": 0x7FF0_0000_0000_0000,
    "F32": 0x7F80_0000,
    "F16": 0x7C00,
    "BF16": 0x7F80,
    "F8_E4M3": 0x7F,
    "F8_E5M2": 0x7C,
}
_NAMED_AT_MOST: Final = 3


@final
class NonFiniteCounter:
    """Counts the values of a floating-point tensor that are NaN or infinite, chunk by chunk.

    Chunks may end anywhere, also inside a value. Other types have no such values.
    """

    def __init__(self, dtype: str) -> None:
        self.count = 0
        self._size = DTYPE_BYTES[dtype]
        self._first = _FIRST_NON_FINITE.get(dtype)
        self._begun = b""  # the bytes of a value whose rest is in the next chunk

    def update(self, chunk: memoryview) -> None:
        """Takes in the next bytes."""
        if self._first is None:
            return
        raw = chunk.cast("B")
        if self._begun:
            lacking = self._size - len(self._begun)
            self._begun += raw[:lacking]
            raw = raw[lacking:]
            if len(self._begun) < self._size:
                return
            self._count(memoryview(self._begun), self._first)
        whole = len(raw) - len(raw) % self._size
        for at in range(0, whole, CHUNK_BYTES):
            self._count(raw[at : min(at + CHUNK_BYTES, whole)], self._first)
        self._begun = bytes(raw[whole:])

    def _count(self, values: memoryview, first: int) -> None:
        # Imported here, because a process that copies tensors may have no other use for it.
        import numpy as np

        # Patterns without a sign are positive as signed numbers, and those with one are the largest
        # as unsigned numbers. Two maxima cost 3 % of a digest, and a mask for every value 10 %.
        signed = np.frombuffer(values, f"<i{self._size}")
        unsigned = np.frombuffer(values, f"<u{self._size}")
        sign = 1 << (8 * self._size - 1)
        if signed.max() >= first:
            self.count += int(np.count_nonzero(signed >= first))
        if unsigned.max() >= sign + first:
            self.count += int(np.count_nonzero(unsigned >= sign + first))


@final
class TensorScan:
    """Reads a tensor's bytes once, for everything that the manifest says about them."""

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._digest = hashlib.sha256()
        self._non_finite = NonFiniteCounter(spec.dtype)

    def update(self, chunk: memoryview) -> None:
        """Takes in the next bytes."""
        self._digest.update(chunk)
        self._non_finite.update(chunk)

    def entry(self) -> TensorEntry:
        """The tensor as a manifest lists it, once all of its bytes have been taken in."""
        return TensorEntry(
            dtype=self._spec.dtype,
            shape=self._spec.shape,
            sha256=self._digest.hexdigest(),
            non_finite=self._non_finite.count,
        )


def non_finite_tensors(files: Mapping[str, FileEntry]) -> tuple[NonFiniteTensor, ...]:
    """The tensors of a manifest's files that hold NaN or infinite values; the base's come first."""
    return tuple(
        NonFiniteTensor(
            file=name,
            key=key,
            non_finite=entry.non_finite,
            values=TensorSpec(entry.dtype, entry.shape).num_elements,
        )
        for name, file in sorted(files.items(), key=lambda item: item[1].role != "base")
        for key, entry in sorted(file.tensors.items())
        if entry.non_finite
    )


def describe_non_finite(tensors: Iterable[NonFiniteTensor]) -> str:
    """One sentence that names the first of the tensors, with their counts."""
    found = tuple(tensors)
    # A bundle's only file of its base is no name that the reader of a .pth has ever seen.
    several = len({tensor.file for tensor in found}) > 1
    named = ", ".join(
        f"{tensor.key}{f' of {tensor.file}' if several else ''} "
        f"({tensor.non_finite:,} of {tensor.values:,} values)"
        for tensor in found[:_NAMED_AT_MOST]
    )
    more = len(found) - _NAMED_AT_MOST
    rest = f", and {more} more" if more > 0 else ""
    noun = "tensor" if len(found) == 1 else "tensors"
    return f"NaN or infinite values are in {len(found)} {noun}: {named}{rest}"
