"""Safetensors files that are damaged, or whose headers lie."""

import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.cli.helpers import (
    DATA,
    Run,
    read_header,
    refuse,
    refuse_checkpoint,
    refused_or_whole,
    short,
    tensors_of,
    write_safetensors,
)
from tests.conftest import VIT_OPTIONS

CODE = "checkpoint-unreadable"
WEIGHT = "head.weight"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A tiny ViT that is in order."""
    path = tmp_path / "vit.safetensors"
    save_file(dict(tensors_of("vit")), path)
    return path


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"not a checkpoint, but a text\n",
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01",
        random.Random(0).randbytes(4096),
        b"\0" * 8,
        b"\xff" * 16,
    ],
    ids=["empty", "short", "text", "png", "random", "no-header", "ff"],
)
def test_a_file_that_is_no_safetensors_file(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    refuse_checkpoint(run, tmp_path, path, CODE, f"where: {path}")


@pytest.mark.parametrize("kept", [4, 8, 100, 0.5, 0.99, -1])
def test_a_truncated_file(run: Run, tmp_path: Path, vit: Path, kept: float) -> None:
    size = vit.stat().st_size
    os.truncate(vit, round(size * kept) if 0 < kept < 1 else (size + int(kept)) % size)
    refuse_checkpoint(run, tmp_path, vit, CODE, "truncated", f"where: {vit}", options=VIT_OPTIONS)


def test_bytes_after_the_last_tensor(run: Run, tmp_path: Path, vit: Path) -> None:
    size = vit.stat().st_size
    with vit.open("ab") as file:
        file.write(b"\0" * 10)
    says = (f"{size}", f"{size + 10}", f"where: {vit}")
    refuse_checkpoint(run, tmp_path, vit, CODE, *says, options=VIT_OPTIONS)


@pytest.mark.parametrize("length", [0, 1, 10**9, 2**40, 2**63, 2**64 - 1])
def test_a_header_that_claims_another_length(run: Run, tmp_path: Path, length: int) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", {"__metadata__": {}}, length=length)
    refuse_checkpoint(run, tmp_path, path, CODE, f"where: {path}")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"null",
        b"{",
        b"{}",
        b'{"a": 1}',
        b'{"a": []}',
        b'{"a": null}',
        b"\xff\xfe{}",
        b'{"a\xff": 1}',
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b'{"\\ud800": 1}',
    ],
    ids=short,
)
def test_a_header_that_describes_nothing(run: Run, tmp_path: Path, header: bytes) -> None:
    path = write_safetensors(tmp_path / "x.safetensors", header)
    refuse_checkpoint(run, tmp_path, path, CODE, f"where: {path}")


def _lie(vit: Path, **claims: Any) -> Path:
    """The same file with other claims about the head's weight."""
    header, data = read_header(vit)
    header[WEIGHT] = {**header[WEIGHT], **claims}
    return write_safetensors(vit, header, data)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("claims", "says"),
    [
        ({"dtype": "F16"}, "F16 of shape [5, 32] needs 320 bytes"),
        ({"dtype": "F31"}, "F31"),
        ({"dtype": "x" * 100_000}, "not supported"),
        ({"dtype": "\n\x1b]0;title\x07"}, "not supported"),
        ({"dtype": 32}, "does not describe"),
        ({"dtype": None}, "does not describe"),
        ({"dtype": []}, "does not describe"),
        ({"dtype": {}}, "does not describe"),
        ({"shape": [5, 33]}, "needs 660 bytes"),
        ({"shape": [5, -32]}, "no sizes"),
        ({"shape": [2**32, 2**32]}, ""),
        ({"shape": [2**64, 2**64, 2**64]}, ""),
        ({"shape": [10**300, 10**300]}, ""),
        ({"shape": [5, 32] + [1] * 100_000}, "no sizes"),
        ({"shape": [5.0, 32]}, "no sizes"),
        ({"shape": [True, 160]}, "no sizes"),
        ({"shape": ["5", 32]}, "no sizes"),
        ({"shape": "5x32"}, "no sizes"),
        ({"shape": None}, "no sizes"),
        ({"shape": {"5": 32}}, "no sizes"),
        ({"data_offsets": [0, 640]}, ""),
        ({"data_offsets": [-640, 0]}, "no sizes"),
        ({"data_offsets": [640, 0]}, "needs 640 bytes"),
        ({"data_offsets": [0]}, "does not describe"),
        ({"data_offsets": [0, 640, 1]}, "does not describe"),
        ({"data_offsets": 640}, "does not describe"),
        ({"data_offsets": None}, "does not describe"),
        ({"data_offsets": "ab"}, "no sizes"),
        ({"data_offsets": [2**62, 2**62 + 640]}, "needs 640 bytes"),
        ({"shape": [2**38], "data_offsets": [0, 2**40]}, "1099511627776"),
        ({"shape": [0, 32], "data_offsets": [2**70, 2**70]}, ""),
    ],
    ids=short,
)
def test_a_claim_about_a_tensor_that_does_not_hold(
    run: Run, tmp_path: Path, vit: Path, claims: dict[str, Any], says: str
) -> None:
    _lie(vit, **claims)
    refuse_checkpoint(run, tmp_path, vit, CODE, f"where: {vit}", says, options=VIT_OPTIONS)


@pytest.mark.parametrize("shift", [-4, 4, -640, 640])
def test_tensors_that_overlap_or_leave_a_hole(
    run: Run, tmp_path: Path, vit: Path, shift: int
) -> None:
    header, data = read_header(vit)
    begin, end = header["norm.weight"]["data_offsets"]
    header["norm.weight"]["data_offsets"] = [begin + shift, end + shift]
    write_safetensors(vit, header, data + b"\0" * 640)
    refuse_checkpoint(run, tmp_path, vit, CODE, f"where: {vit}", options=VIT_OPTIONS)


def test_a_tensor_that_stands_twice_in_the_header(run: Run, tmp_path: Path, vit: Path) -> None:
    # The format forbids it, and parsers disagree on which of the two counts.
    header, data = read_header(vit)
    text = json.dumps(header)
    again = json.dumps({WEIGHT: {**header[WEIGHT], "shape": [32, 5]}})[1:-1]
    write_safetensors(vit, f"{{{again}, {text[1:]}".encode(), data)
    says = (WEIGHT, "twice", f"where: {vit}")
    refuse_checkpoint(run, tmp_path, vit, CODE, *says, options=VIT_OPTIONS)


@pytest.mark.parametrize(
    "key", ["two\nlines", "\x1b]0;title\x07", "k" * 100_000, "", "\ud800", "a\0b"], ids=short
)
def test_a_tensor_with_a_hostile_name(run: Run, tmp_path: Path, vit: Path, key: str) -> None:
    header, data = read_header(vit)
    end = len(data)
    header[key] = {"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]}
    write_safetensors(vit, header, data + b"\0" * 4)
    arguments = ("inspect", vit, *VIT_OPTIONS)
    code = "checkpoint-unreadable" if key == "\ud800" else "architecture-mismatch"
    refuse(run, tmp_path, *arguments, status=DATA, code=code, says=(f"where: {vit}",))


def test_an_empty_tensor_with_sizes_beyond_every_integer(
    run: Run, tmp_path: Path, vit: Path
) -> None:
    header, data = read_header(vit)
    header["extra"] = {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [len(data)] * 2}
    write_safetensors(vit, header, data)
    refuse_checkpoint(run, tmp_path, vit, CODE, "extra", f"where: {vit}", options=VIT_OPTIONS)


def test_thousands_of_empty_tensors_are_refused_in_time(run: Run, tmp_path: Path) -> None:
    claim = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    raw = "{" + ",".join(f'"{number}":{claim}' for number in range(30_000)) + "}"
    path = write_safetensors(tmp_path / "x.safetensors", raw.encode())
    started = time.process_time()
    arguments = ("inspect", path)
    refuse(run, tmp_path, *arguments, status=DATA, code="unknown-architecture")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("dtype", "says"), [(torch.int8, "I8"), (torch.bool, "BOOL"), (torch.float8_e5m2, "F8_E5M2")]
)
def test_weights_that_are_no_floating_point_numbers(
    run: Run, tmp_path: Path, vit: Path, dtype: torch.dtype, says: str
) -> None:
    tensors = {key: tensor.to(dtype) for key, tensor in tensors_of("vit").items()}
    save_file(tensors, vit)
    refuse_checkpoint(
        run, tmp_path, vit, "unsupported-tensor", says, f"where: {vit}", options=VIT_OPTIONS
    )


def _header_variants(header: dict[str, Any]) -> dict[str, bytes]:
    text = json.dumps(header)
    first = next(iter(header))
    return {
        "leading space": b"  " + text.encode(),
        "number in metadata": json.dumps({"__metadata__": {"n": 1}, **header}).encode(),
        "list as metadata": json.dumps({"__metadata__": [1], **header}).encode(),
        "null as metadata": json.dumps({"__metadata__": None, **header}).encode(),
        "extra entry": json.dumps({**header, first: {**header[first], "note": "x"}}).encode(),
        "nan": json.dumps({**header, first: {**header[first], "n": float("nan")}}).encode(),
        "trailing nul": text.encode() + b"\0\0",
        "odd length": text.encode() + b" " * (1 - len(text.encode()) % 2),
        "byte order mark": b"\xef\xbb\xbf" + text.encode(),
        "utf-16": text.encode("utf-16"),
    }


@pytest.mark.sample(3)
@pytest.mark.parametrize("variant", sorted(_header_variants({"a": {}})))
def test_a_header_that_is_accepted_gives_a_bundle_that_opens(
    tmp_path: Path, vit: Path, variant: str
) -> None:
    # The library that maps a bundle's tensors reads headers more strictly than JSON asks for.
    header, data = read_header(vit)
    write_safetensors(vit, _header_variants(header)[variant], data)
    refused_or_whole(vit, tmp_path, num_heads=2)


@given(data=st.data())
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_one_wrong_byte_is_refused_or_does_not_matter(
    tmp_path: Path, vit: Path, data: st.DataObject
) -> None:
    content = bytearray(vit.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    place = data.draw(st.integers(0, header) | st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(content)
    refused_or_whole(damaged, tmp_path, num_heads=2)
