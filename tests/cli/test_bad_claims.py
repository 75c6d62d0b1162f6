"""Manifests that can be read, and contradict the files, the model or themselves."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli import load
from scalenet_cli.errors import ScalenetError
from tests.cli.helpers import (
    DATA,
    Change,
    Manifest,
    Run,
    change_manifest,
    refuse,
    refuse_bundle,
    set_entry,
    short,
    write_bundle,
)

FIRST = ("files", "model.safetensors", "tensors", "head.bias")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole-decoder"), "qwen3")


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A bundle whose manifest is to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def _tie(change: Callable[[dict[str, list[str]], str, str], Any]) -> Change:
    """Changes the table of ties; gets the keys of two groups."""
    first, second = "blocks.0.attn.qkv.weight", "blocks.1.mlp.fc1.weight"
    return lambda manifest: change(manifest["ties"], first, second)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "change",
    [
        _tie(lambda ties, a, b: ties[a].pop()),
        _tie(lambda ties, a, b: ties[a].pop(0)),
        _tie(lambda ties, a, b: ties[a].clear()),
        _tie(lambda ties, a, b: ties.pop(a)),
        _tie(lambda ties, a, b: ties.clear()),
        _tie(lambda ties, a, b: ties[a].append(ties[b].pop())),
        _tie(lambda ties, a, b: ties[a].extend(ties.pop(b))),
        _tie(lambda ties, a, b: ties.update({a: ties[b], b: ties[a]})),
        _tie(lambda ties, a, b: ties[a].append("blocks.99.attn.qkv.core.weight")),
        _tie(lambda ties, a, b: ties[a].append("two\nlines")),
        _tie(lambda ties, a, b: ties[a].append("head.weight")),
        _tie(lambda ties, a, b: ties.update({"head.weight": ["head.weight"]})),
        _tie(lambda ties, a, b: ties.update({"nonsense": ["head.weight", "head.weight"]})),
        _tie(lambda ties, a, b: ties.update({"renamed": ties.pop(a)})),
    ],
    ids=["one-less", "first-gone", "none-left", "group-gone", "all-gone", "moved", "merged",
         "swapped", "unknown", "hostile", "stranger", "single", "new-group", "renamed"],
)  # fmt: skip
def test_a_table_of_ties_that_is_not_the_models(run: Run, bundle: Path, change: Change) -> None:
    change_manifest(bundle, change)
    refuse_bundle(run, bundle, "bundle-tie-broken", f"where: {bundle}")


def _layout(**entries: object) -> Change:
    def change(manifest: Manifest) -> None:
        manifest["layout"][0].update(entries)

    change.__name__ = repr(entries)
    return change


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "change",
    [
        _layout(sources=[0, 1, 2]),
        _layout(sources=[0, 0, 1, 1, 2, 3]),
        _layout(sources=[0, 0, 1, 1, 0, 0]),
        _layout(sources=[0, 1, 2, 0, 1, 2]),
        _layout(sources=[0, 0, 0, 1, 2, 2]),
        _layout(sources=[0, 0, 1, 1, 2, 2, 2]),
        _layout(sources=[0, 1, 2] * 100),
        _layout(depth=2),
        _layout(path="layers"),
        _layout(path="two\nlines"),
        _layout(scope=[0, 99]),
        _layout(scope=[]),
        _layout(scope=[0, 0, 1, 2]),
        lambda manifest: manifest["layout"].clear(),
        lambda manifest: manifest["layout"].append(manifest["layout"][0]),
    ],
    ids=short,
)
def test_a_layout_that_is_not_the_plans(run: Run, bundle: Path, change: Change) -> None:
    change_manifest(bundle, change)
    started = time.process_time()
    refuse_bundle(run, bundle, "manifest-unreadable", f"where: {bundle}")
    assert time.process_time() - started < 5


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "change",
    [
        set_entry("plan", "factor", value=3.0),
        set_entry("plan", "adapter", "dim", value=5),
        set_entry("plan", "adapter", "activation", value="relu"),
        set_entry("plan", "adapter", "targets", value="attention"),
        set_entry("plan", "adapter", "targets", value=["nonsense"]),
        set_entry("plan", "adapter", value={"type": "none"}),
        set_entry("plan", "adapter", "instances", value="new"),
        set_entry("plan", "shared", "weights", value="copied"),
        set_entry("plan", "shared", "norms", value="tied"),
        set_entry("plan", "start", value="identity"),
        set_entry("plan", "train", value=["gates"]),
        set_entry("plan", "train", value=["head"]),
        set_entry("plan", "drop_path", value=0.9),
        set_entry("plan", "mapping", value="stack"),
    ],
    ids=["factor", "dim", "activation", "targets", "pattern", "type", "instances", "weights",
         "norms", "start", "gates", "train", "drop-path", "mapping"],
)  # fmt: skip
def test_a_plan_that_is_not_the_plan_file(run: Run, bundle: Path, change: Change) -> None:
    change_manifest(bundle, change)
    refuse(
        run, bundle, "verify", bundle, status=DATA, code="manifest-unreadable",
        says=(f"where: {bundle}",),
    )  # fmt: skip


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    "change",
    [
        set_entry("parameters", "stored", value=1),
        set_entry("parameters", "trainable", value=1),
        set_entry("parameters", "groups", "head", value=0),
        set_entry("parameters", "instances", value=[]),
        set_entry("flops", "macs", value=1),
        set_entry("flops", "instances", 0, "macs", value=1),
    ],
    ids=["stored", "trainable", "group", "instances", "macs", "instance"],
)
def test_numbers_that_are_not_the_models(run: Run, bundle: Path, change: Change) -> None:
    # count-params and flops read them off the manifest, so verify counts again.
    change_manifest(bundle, change)
    refuse(
        run, bundle, "verify", bundle, status=DATA, code="manifest-unreadable",
        says=(f"where: {bundle}",),
    )  # fmt: skip


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "change",
    [
        set_entry("source", "family", value="swin"),
        set_entry("source", "family", value="nonsense"),
        set_entry("source", "family", value="llama"),
        set_entry("source", "family", value="os:system"),
        set_entry("source", "architecture", value="resnet50"),
        set_entry("source", "architecture", value="hf_hub:stranger/model"),
        set_entry("source", "architecture", value="swin_tiny_patch4_window7_224"),
        set_entry("source", "arguments", value={}),
        set_entry("source", "arguments", "depth", value=2),
        set_entry("source", "arguments", "depth", value=10**9),
        set_entry("source", "arguments", "embed_dim", value="wide"),
        set_entry("source", "arguments", "num_heads", value=0),
        set_entry("source", "arguments", "num_heads", value=3),
        set_entry("source", "arguments", "norm_eps", value="small"),
        set_entry("source", "arguments", "features_only", value=True),
        set_entry("source", "arguments", "checkpoint_path", value="/etc/passwd"),
        set_entry("source", "arguments", "pretrained", value=True),
        set_entry("source", "arguments", "pretrained_cfg", value={"url": "http://127.0.0.1/x"}),
        set_entry("source", "arguments", "num_classes", value=10**12),
        set_entry("source", "arguments", "two\nlines", value=1),
        set_entry("source", "digest", value="0" * 64),
        set_entry("source", "renamed", value={"head.bias": "head.b"}),
        set_entry("source", "reference", value=3),
    ],
    ids=short,
)
def test_a_source_that_is_not_the_bundles(run: Run, bundle: Path, change: Change) -> None:
    change_manifest(bundle, change)
    result = run("verify", bundle)
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert result.stderr.count("error[") == 1
    assert str(bundle) in result.stderr
    assert all(line.isprintable() for line in result.stderr.splitlines())
    with pytest.raises(ScalenetError) as raised:
        load(bundle)
    assert f"{raised.value}\n" == result.stderr


@pytest.mark.parametrize(
    "change",
    [
        set_entry("source", "arguments", "model_type", value="nonsense"),
        set_entry("source", "arguments", "num_hidden_layers", value=1_000_000),
        set_entry("source", "arguments", "layer_types", value=["full_attention"]),
        set_entry("source", "arguments", "num_attention_heads", value=0),
    ],
    ids=short,
)
def test_a_decoders_config_that_is_not_the_bundles(
    run: Run, tmp_path: Path, whole_decoder: Path, change: Change
) -> None:
    bundle = Path(shutil.copytree(whole_decoder, tmp_path / "out"))
    change_manifest(bundle, change)
    started = time.process_time()
    result = run("verify", bundle)
    assert time.process_time() - started < 5
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert str(bundle) in result.stderr


def _drop(role: str, key: str) -> Change:
    def change(manifest: Manifest) -> None:
        for entry in manifest["files"].values():
            if entry["role"] == role:
                entry["tensors"].pop(key, None)

    return change


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "change",
    [
        _drop("base", "head.bias"),
        _drop("instances", "blocks.1.norm1.weight"),
        lambda manifest: manifest["files"].pop("model.safetensors"),
        lambda manifest: manifest["files"].pop("adapters.safetensors"),
        lambda manifest: manifest["files"].clear(),
        set_entry("files", "adapters.safetensors", "role", value="base"),
        set_entry("files", "model.safetensors", "role", value="instances"),
        set_entry("files", "plan.yaml", "role", value="base"),
        set_entry("files", "model.safetensors", "role", value="carried"),
        set_entry("files", "plan.yaml", "sha256", value=None),
        set_entry(*FIRST, "dtype", value="F16"),
        set_entry(*FIRST, "dtype", value="nonsense"),
        set_entry(*FIRST, "shape", value=[1, 5]),
        set_entry(*FIRST, "shape", value=[10**30]),
        set_entry("files", "manifest.json", value={"role": "carried", "num_bytes": 1}),
    ],
    ids=["tensor", "instance-tensor", "base-file", "instances-file", "all-files", "to-base",
         "to-instances", "plan-to-base", "to-carried", "no-digest", "dtype", "unknown-dtype",
         "shape", "huge-shape", "itself"],
)  # fmt: skip
def test_a_list_of_files_that_is_not_the_folders(run: Run, bundle: Path, change: Change) -> None:
    change_manifest(bundle, change)
    result = run("verify", bundle)
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert "error[" in result.stderr
    assert str(bundle) in result.stderr
    with pytest.raises(ScalenetError) as raised:
        load(bundle)
    assert f"{raised.value}\n" == result.stderr


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vit", set_entry("source", "arguments", "num_heads", value=4)),
        ("vit", set_entry("source", "preprocessing", "mean", value=[0.0, 0.0, 0.0])),
        ("qwen3", set_entry("source", "arguments", "sliding_window", value=5)),
        ("qwen3", set_entry("source", "arguments", "rms_norm_eps", value=0.1)),
    ],
    ids=short,
)
def test_a_number_that_no_tensor_shows_is_covered_by_a_digest(
    run: Run, tmp_path: Path, whole: Path, whole_decoder: Path, name: str, change: Change
) -> None:
    # One changed digit makes another model of the same tensors.
    bundle = tmp_path / "out"
    shutil.copytree(whole if name == "vit" else whole_decoder, bundle)
    change_manifest(bundle, change, sealed=False)
    where = f"where: {bundle / 'manifest.json'}"
    refuse_bundle(run, bundle, "bundle-digest-mismatch", "manifest.json", where, "hint:")
