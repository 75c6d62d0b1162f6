"""The header of a safetensors file: names, types, places. The library does not give offsets."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import CheckpointNotFound, CheckpointUnreadable
from scalenet_cli.families.sources.json_text import parse_json
from scalenet_cli.families.sources.tensors import DTYPE_BYTES, FileTensor, TensorSpec

MAX_HEADER_BYTES: Final = 100_000_000  # the limit of the safetensors library
MAX_RANK: Final = 16


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """One file: its tensors in the order of their bytes, and its header as it stands there."""

    path: Path
    header: bytes
    tensors: dict[str, FileTensor]


def read_header(path: Path) -> SafetensorsFile:
    """Names, types and places of all tensors; no tensor is read.

    Raises:
        CheckpointNotFound: no such file.
        CheckpointUnreadable: not a safetensors file, truncated, or with claims that do not add up.
    """
    where = str(path)
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointUnreadable(
                    f"the header claims {length} bytes, but the file has {size}",
                    where=where,
                    hint="the file is truncated or is no safetensors file: get it again",
                )
            raw = file.read(length)
    except FileNotFoundError:
        raise CheckpointNotFound("there is no such file", where=where) from None
    except OSError as error:
        raise CheckpointUnreadable(f"the file cannot be read: {error}", where=where) from None
    claims = _parse_claims(raw, where)
    start = 8 + length
    tensors = {
        key: _tensor(path, start, size=size, key=key, claim=claim)
        for key, claim in claims.items()
        if key != "__metadata__"
    }
    ordered = dict(sorted(tensors.items(), key=_place))
    _check_places(ordered, start, size, where)
    return SafetensorsFile(path, raw, ordered)


def _parse_claims(raw: bytes, where: str) -> dict[str, Any]:
    try:
        claims = parse_json(raw)
    except ValueError as error:
        raise CheckpointUnreadable(f"the header is not JSON: {error}", where=where) from None
    if not isinstance(claims, dict) or not raw.startswith(b"{"):
        raise CheckpointUnreadable("the header is no JSON object", where=where)
    metadata = claims.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointUnreadable("the header's metadata are no texts", where=where)
    return claims


def _tensor(path: Path, start: int, size: int, key: str, claim: Any) -> FileTensor:
    where = f"{path}  {key[:200]}"
    try:
        dtype, shape, (begin, end) = claim["dtype"], claim["shape"], claim["data_offsets"]
        if len(claim) != 3 or not isinstance(dtype, str):
            raise ValueError
    except (TypeError, KeyError, ValueError):
        raise CheckpointUnreadable(
            "the header does not describe this tensor", where=where
        ) from None
    whole = [*shape, begin, end] if isinstance(shape, list) else [None]
    if not all(type(n) is int and 0 <= n < 2**63 for n in whole) or len(shape) > MAX_RANK:
        raise CheckpointUnreadable("the header's numbers are no sizes", where=where)
    if dtype not in DTYPE_BYTES:
        raise CheckpointUnreadable(
            f"the tensor has the type {str(dtype)[:40]}, which is not supported",
            where=where,
            hint=f"supported types: {', '.join(DTYPE_BYTES)}",
        )
    spec = TensorSpec(dtype, tuple(shape))
    if spec.num_bytes != end - begin or start + end > size:
        raise CheckpointUnreadable(
            f"{dtype} of shape {shape} needs {spec.num_bytes} bytes, but the header gives it "
            f"{end - begin} of the {size - start} in the file",
            where=where,
            hint="the file is truncated or damaged: get it again",
        )
    return FileTensor(spec, path, start + begin)


def _place(item: tuple[str, FileTensor]) -> tuple[int, int, str]:
    """The order of a file's bytes; a tensor without any comes before the one that it lies at."""
    key, tensor = item
    return tensor.offset, tensor.spec.num_bytes, key


def _check_places(tensors: dict[str, FileTensor], start: int, size: int, where: str) -> None:
    """The format allows neither holes nor overlaps."""
    at = start
    for key, tensor in tensors.items():
        if tensor.offset != at:
            raise CheckpointUnreadable(
                f"the bytes of {key[:200]} start at {tensor.offset}, not at {at}", where=where
            )
        at += tensor.spec.num_bytes
    if at != size:
        raise CheckpointUnreadable(
            f"the tensors end at byte {at}, but the file has {size}", where=where
        )
