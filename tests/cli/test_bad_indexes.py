"""Weights in several files: missing and damaged shards, and an index that lies."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.cli.helpers import (
    DATA,
    Run,
    refuse_checkpoint,
    short,
    tensors_of,
    write_decoder,
    write_safetensors,
)


def write_shards(folder: Path, name: str = "llama", count: int = 3) -> Path:
    """A Hugging Face folder with the weights in several files and an index."""
    write_decoder(folder, name)
    (folder / "model.safetensors").unlink()
    tensors = tensors_of(name)
    files = {
        key: f"model-{order % count + 1:05d}-of-{count:05d}.safetensors"
        for order, key in enumerate(tensors)
    }
    for file in set(files.values()):
        save_file({key: tensors[key] for key in tensors if files[key] == file}, folder / file)
    write_index(folder, files)
    return folder


def write_index(folder: Path, weight_map: object) -> None:
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def read_index(folder: Path) -> dict[str, str]:
    content = json.loads((folder / "model.safetensors.index.json").read_text())
    weight_map: dict[str, str] = content["weight_map"]
    return weight_map


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"[]", "JSON"),
        (b"3", "JSON"),
        (b"\xff\xfe{}", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b'{"a":' * 100_000, "JSON"),
        (b'{"vocab_size": ' + b"9" * 10_000 + b"}", "JSON"),
        (b'{"x": "' + b"x" * 1_000_000 + b'"}', "1000000"),
    ],
    ids=short,
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_json_that_cannot_be_read(
    run: Run, tmp_path: Path, name: str, content: bytes, says: str
) -> None:
    folder = write_shards(tmp_path / "llama")
    (folder / name).write_bytes(content)
    if len(content) > 1_000_000 and name != "config.json":
        says = "weight_map"
    refuse_checkpoint(run, tmp_path, folder, "checkpoint-unreadable", says, f"{folder / name}")


def test_a_missing_shard(run: Run, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "llama")
    (folder / "model-00002-of-00003.safetensors").unlink()
    refuse_checkpoint(
        run, tmp_path, folder, "checkpoint-incomplete",
        "the shard model-00002-of-00003.safetensors is missing; the index names 3",
        f"where: {folder / 'model.safetensors.index.json'}", "hint:",
    )  # fmt: skip


def test_a_truncated_shard(run: Run, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "llama")
    shard = folder / "model-00002-of-00003.safetensors"
    os.truncate(shard, shard.stat().st_size - 100)
    refuse_checkpoint(
        run, tmp_path, folder, "checkpoint-unreadable", "truncated", f"where: {shard}"
    )


def _lose_a_tensor(folder: Path, index: dict[str, str]) -> None:
    index["model.norm.weight"] = next(f for f in index.values() if f != index["model.norm.weight"])


def _name_one_more(folder: Path, index: dict[str, str]) -> None:
    index["model.extra"] = index["model.norm.weight"]


def _forget_one(folder: Path, index: dict[str, str]) -> None:
    del index["model.norm.weight"]


def _repeat_one(folder: Path, index: dict[str, str]) -> None:
    other = next(f for f in sorted(index.values()) if f != index["model.norm.weight"])
    held = {key: tensors_of("llama")[key] for key in index if index[key] == other}
    save_file({**held, "model.norm.weight": torch.zeros(32)}, folder / other)


@pytest.mark.parametrize("change", [_lose_a_tensor, _name_one_more, _forget_one, _repeat_one])
def test_an_index_that_does_not_match_its_shards(
    run: Run, tmp_path: Path, change: Callable[[Path, dict[str, str]], None]
) -> None:
    folder = write_shards(tmp_path / "llama")
    index = read_index(folder)
    change(folder, index)
    write_index(folder, index)
    result = run("inspect", folder)
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert "error[checkpoint-" in result.stderr
    assert "where:" in result.stderr


@pytest.mark.parametrize(
    "weight_map",
    [None, {}, [], "model.safetensors", {"a": None}, {"a": 3}, {"a": []}, {"a": {"b": "c"}},
     {"a": ""}, {"a": "two\nlines"}, {"a": "x" * 1000}, {"a": "nul\0"}, {"a": "\ud800"}],
    ids=short,
)  # fmt: skip
def test_an_index_of_another_kind(run: Run, tmp_path: Path, weight_map: object) -> None:
    folder = write_shards(tmp_path / "llama")
    write_index(folder, weight_map)
    result = run("inspect", folder)
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert result.stderr.count("error[") == 1
    assert all(line.isprintable() for line in result.stderr.splitlines())


@pytest.mark.parametrize("form", ["../{}", "{folder}/../{}", "/{}", "sub/../../{}", "..", "."])
def test_an_index_that_points_outside_its_folder(run: Run, tmp_path: Path, form: str) -> None:
    folder = write_shards(tmp_path / "llama")
    shard = "model-00001-of-00003.safetensors"
    shutil.move(folder / shard, tmp_path / shard)
    outside = form.format(shard, folder=folder)
    index = {key: outside if file == shard else file for key, file in read_index(folder).items()}
    write_index(folder, index)
    says = ("points outside its folder", f"where: {folder / 'model.safetensors.index.json'}")
    refuse_checkpoint(run, tmp_path, folder, "checkpoint-unreadable", *says)


def test_a_shard_that_claims_a_terabyte(run: Run, tmp_path: Path) -> None:
    folder = write_shards(tmp_path / "llama")
    shard = folder / "model-00002-of-00003.safetensors"
    claim = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    write_safetensors(shard, {"model.norm.weight": claim}, b"\0" * 128)
    says = ("1099511627776", f"where: {shard}", "truncated")
    refuse_checkpoint(run, tmp_path, folder, "checkpoint-unreadable", *says)
