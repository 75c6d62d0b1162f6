"""What torch.save wrote: odd contents, odd tensors, archives that were changed."""

import io
import random
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalenet_cli.families.sources.read_checkpoint import read_checkpoint
from tests.cli.helpers import (
    DATA,
    Run,
    refuse,
    refuse_checkpoint,
    refused_or_whole,
    short,
    tensors_of,
)
from tests.conftest import VIT_OPTIONS

RANDOM = random.Random(0).randbytes(4096)


def _cycle() -> dict[str, Any]:
    content: dict[str, Any] = {}
    content["model"] = content
    return content


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([torch.zeros(2)], "holds a list"),
        (torch.zeros(2), "holds a tensor"),
        (3, "holds a int"),
        ("text", "holds a str"),
        ({}, "holds no tensors"),
        ({"epoch": 3, "lr": 0.1}, "its keys are epoch, lr"),
        ({"model": {"a": 1}}, "its keys are a"),
        ({1: torch.zeros(2)}, "holds no tensors"),
        ({"two\nlines": 1, "\x1b]0;title\x07": 2}, "holds no tensors"),
        ({"k" * 100_000: 1}, "holds no tensors"),
        (_cycle(), "holds no tensors"),
        (OrderedDict(model=OrderedDict(model=None)), "its keys are model"),
    ],
    ids=short,
)
def test_a_pickle_without_a_state_dict(
    run: Run, tmp_path: Path, content: object, says: str
) -> None:
    path = tmp_path / "content.pth"
    torch.save(content, path)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-unreadable", says, f"where: {path}", "save a state dict"
    )


HEAD = "head.bias"


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("tensor", "code", "says"),
    [
        (torch.zeros(5, dtype=torch.complex64), "unsupported-tensor", "complex64"),
        (torch.zeros(5, dtype=torch.int64), "unsupported-tensor", "I64"),
        (torch.zeros(5, dtype=torch.int8), "unsupported-tensor", "I8"),
        (torch.zeros(5, dtype=torch.uint16), "unsupported-tensor", "uint16"),
        (torch.zeros(5).to(torch.float8_e4m3fn), "unsupported-tensor", "F8_E4M3"),
        (torch.eye(5).to_sparse(), "unsupported-tensor", "sparse"),
        (torch.zeros(5, device="meta"), "checkpoint-unreadable", "head.bias"),
        (torch.zeros(4), "architecture-mismatch", "(4), but the architecture has (5)"),
        (torch.zeros(()), "architecture-mismatch", "(5)"),
        (torch.zeros(0), "architecture-mismatch", "(0), but the architecture has (5)"),
        (torch.zeros(1).expand(2**40), "checkpoint-unreadable", "claims"),
        ("text", "architecture-mismatch", "1 tensors are missing, such as head.bias"),
    ],
    ids=short,
)
def test_a_tensor_that_cannot_be_used(
    run: Run, tmp_path: Path, tensor: object, code: str, says: str
) -> None:
    path = tmp_path / "vit.pth"
    torch.save({**tensors_of("vit"), HEAD: tensor}, path)
    refuse_checkpoint(run, tmp_path, path, code, says, str(path), options=VIT_OPTIONS)


def test_a_quantised_tensor_is_refused(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weight = torch.quantize_per_tensor(torch.zeros(5, 32), 0.1, 0, torch.qint8)
        torch.save({**tensors_of("vit"), "head.weight": weight}, path)
    refuse_checkpoint(run, tmp_path, path, "unsupported-tensor", str(path), options=VIT_OPTIONS)


def test_a_view_that_claims_more_than_the_file_holds(run: Run, tmp_path: Path) -> None:
    # 1.3 GB out of a file of a few kilobytes: one number, expanded.
    path = tmp_path / "vit.pth"
    huge = {"head.weight": torch.zeros(1).expand(10_000_000, 32),
            HEAD: torch.zeros(1).expand(10_000_000)}  # fmt: skip
    torch.save({**tensors_of("vit"), **huge}, path)
    says = ("head.weight", "1280000000 bytes", f"where: {path}")
    refuse(
        run, tmp_path, "inspect", path, *VIT_OPTIONS, status=DATA, code="checkpoint-unreadable",
        says=says,
    )  # fmt: skip


def _zip(path: Path, records: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return path


def _records() -> dict[str, bytes]:
    saved = io.BytesIO()
    torch.save(dict(tensors_of("vit")), saved)
    with zipfile.ZipFile(saved) as archive:
        return {record.filename: archive.read(record) for record in archive.infolist()}


@pytest.mark.parametrize(
    "records",
    [
        {},
        {"readme.txt": b"text"},
        {"archive/data.pkl": b""},
        {"archive/data.pkl": b"\x80\x02}."},
        {"archive/data.pkl": b"\x80\x02]."},
        {"archive/data.pkl": RANDOM},
        {"archive/byteorder": b"big", "archive/data.pkl": b""},
        {"../../data.pkl": b"\x80\x02}.", "/etc/version": b"3"},
    ],
    ids=short,
)
def test_a_zip_file_that_is_no_checkpoint(
    run: Run, tmp_path: Path, records: dict[str, bytes]
) -> None:
    path = _zip(tmp_path / "file.pth", records)
    refuse_checkpoint(run, tmp_path, path, "checkpoint-unreadable", f"where: {path}", "hint:")


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("order", ["as torch", "reversed"])
def test_a_checkpoint_that_another_tool_packed_again_keeps_its_values(
    tmp_path: Path, order: str, method: int
) -> None:
    # torch reads it; its arithmetic for the places of unpacked records does not hold here.
    records = _records()
    names = list(records) if order == "as torch" else list(reversed(records))
    path = _zip(tmp_path / "vit.pth", {name: records[name] for name in names}, method)
    expected = torch.load(path, weights_only=True)
    found = read_checkpoint(path).tensors
    assert [key for key in expected if not torch.equal(found[key].read(), expected[key])] == []


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("lost", ["data/3", "data.pkl", "version"])
def test_a_checkpoint_that_lost_a_record(run: Run, tmp_path: Path, method: int, lost: str) -> None:
    records = {name: data for name, data in _records().items() if not name.endswith(lost)}
    path = _zip(tmp_path / "vit.pth", records, method)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-unreadable", f"where: {path}", options=VIT_OPTIONS
    )


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_record_that_is_shorter_than_its_tensor(run: Run, tmp_path: Path, method: int) -> None:
    # The last storage: reading on behind it would read the archive's own directory.
    records = _records()
    last = max((n for n in records if "/data/" in n), key=lambda name: int(Path(name).name))
    path = _zip(tmp_path / "vit.pth", {**records, last: records[last][:4]}, method)
    refuse_checkpoint(
        run, tmp_path, path, "checkpoint-unreadable", f"where: {path}", options=VIT_OPTIONS
    )


@pytest.mark.sample(2)
@given(data=st.data())
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_one_wrong_byte_or_a_lost_end_is_refused_or_does_not_matter(
    tmp_path: Path, legacy: bool, data: st.DataObject
) -> None:
    path = tmp_path / "vit.pth"
    torch.save(dict(tensors_of("vit")), path, _use_new_zipfile_serialization=not legacy)
    content = bytearray(path.read_bytes())
    # The pickle is at the beginning, the directory of a zip file at the end.
    edges = st.integers(0, 8000) | st.integers(len(content) - 5000, len(content) - 1)
    place = data.draw(edges | st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[place] ^= data.draw(st.integers(1, 255))
    else:
        del content[place:]
    path.write_bytes(content)
    refused_or_whole(path, tmp_path, num_heads=2)
