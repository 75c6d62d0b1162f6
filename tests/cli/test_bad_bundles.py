"""Bundles with damaged, missing or exchanged files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalenet_cli import SourceOptions, expand_checkpoint, load
from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    change_manifest,
    read_header,
    refuse,
    refuse_bundle,
    short,
    tensors_of,
    write_bundle,
    write_decoder,
    write_safetensors,
)
from tests.conftest import PLAN, VIT_OPTIONS

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


@pytest.fixture
def source(whole: Path) -> Path:
    """The checkpoint that it was made from."""
    return whole.parent / "vit.safetensors"


def test_the_bundle_is_in_order(run: Run, bundle: Path, source: Path) -> None:
    result = run("verify", bundle, "--source", source, *VIT_OPTIONS)
    assert (result.exit_code, result.stderr) == (0, "")


@pytest.mark.parametrize("command", ["verify", "load"])
def test_what_is_no_bundle(run: Run, tmp_path: Path, command: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("{}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "manifest.json").mkdir()
    for name in ("empty", "file", "odd", "missing", "file/below"):
        path = tmp_path / name
        if command == "verify":
            says = (f"where: {path}", "scalenet expand")
            refuse(run, tmp_path, "verify", path, status=DATA, code="not-a-bundle", says=says)
        else:
            with pytest.raises(Exception, match="not-a-bundle"):
                load(path)


def test_a_checkpoint_is_no_bundle_and_a_bundle_no_checkpoint(
    run: Run, tmp_path: Path, bundle: Path, source: Path
) -> None:
    refuse(run, tmp_path, "verify", source, status=DATA, code="not-a-bundle")
    plan = bundle / "plan.yaml"
    arguments = ("expand", bundle, "--plan", plan, "-o", tmp_path / "again")
    says = ("is a bundle already", f"where: {bundle}", "hint:")
    refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=says)


@pytest.mark.parametrize("options", [("--arch", "x"), ("--model-kwargs", "num_heads=2")])
@pytest.mark.parametrize("command", ["inspect", "count-params", "flops"])
def test_a_bundle_knows_its_architecture(
    run: Run, bundle: Path, command: str, options: tuple[str, str]
) -> None:
    says = (f"where: {bundle}", "not for bundles")
    refuse(run, bundle, command, bundle, *options, status=USAGE, code="option", says=says)


def flip(path: Path, place: int) -> None:
    """Changes one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("place", [-1, -5000, 0.6])
@pytest.mark.parametrize("name", ["model.safetensors", "adapters.safetensors"])
def test_a_flipped_bit_in_a_tensor(run: Run, bundle: Path, name: str, place: float) -> None:
    path = bundle / name
    flip(path, int(path.stat().st_size * place) if 0 < place < 1 else int(place))
    says = ("is not what was written: its sha256 differs", f"where: {bundle}", "hint:")
    refuse_bundle(run, bundle, "bundle-digest-mismatch", *says)


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["plan.yaml", "README.md"])
@pytest.mark.parametrize("place", [0, -1])
def test_a_flipped_bit_in_a_carried_file(run: Run, bundle: Path, name: str, place: int) -> None:
    flip(bundle / name, place)
    says = (f"{name} is not what was written", f"where: {bundle}", "hint:")
    refuse_bundle(run, bundle, "bundle-digest-mismatch", *says)


@pytest.mark.sample(5)
@pytest.mark.parametrize("place", [0, 3, 7, 8, 9, 40, 60])
@pytest.mark.parametrize("name", ["model.safetensors", "adapters.safetensors"])
def test_a_flipped_bit_in_a_header(run: Run, bundle: Path, name: str, place: int) -> None:
    flip(bundle / name, place)
    refuse_bundle(run, bundle, "bundle-digest-mismatch", f"where: {bundle / name}")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "adapters.safetensors", "plan.yaml", "README.md"]
)
def test_a_missing_truncated_or_longer_file(run: Run, bundle: Path, whole: Path, name: str) -> None:
    path, size = bundle / name, (bundle / name).stat().st_size
    for found in (size - 1, 0, size + 10):
        shutil.copyfile(whole / name, path)
        os.truncate(path, found)
        says = (f"{name} has {found} bytes, but the manifest says {size}", f"where: {bundle}")
        refuse_bundle(run, bundle, "bundle-file-missing", *says, "hint:")
    path.unlink()
    says = (f"the bundle has no {name}", f"where: {bundle}", "hint:")
    refuse_bundle(run, bundle, "bundle-file-missing", *says)
    path.mkdir()
    refuse_bundle(run, bundle, "bundle-file-missing", *says)


@pytest.mark.parametrize(
    "command", [("count-params",), ("flops",), ("flops", "--input-size", "64"), ("inspect",)]
)
def test_a_bundle_is_described_without_its_other_files(
    run: Run, bundle: Path, whole: Path, command: tuple[str, ...]
) -> None:
    for path in bundle.iterdir():
        if path.name != "manifest.json":
            path.unlink()
    name, *options = command
    described, expected = (run(name, one, *options, "--json") for one in (bundle, whole))
    assert described.exit_code == expected.exit_code == 0, described.stderr
    assert described.stdout == expected.stdout.replace(str(whole), str(bundle))


@pytest.mark.parametrize("name", ["model.safetensors", "adapters.safetensors"])
def test_a_truncated_file_whose_manifest_agrees(run: Run, bundle: Path, name: str) -> None:
    size = (bundle / name).stat().st_size - 100
    os.truncate(bundle / name, size)
    change_manifest(bundle, lambda m: m["files"][name].update(num_bytes=size))
    refuse_bundle(run, bundle, "bundle-digest-mismatch", f"where: {bundle / name}", "truncated")


@pytest.mark.parametrize("place", ["folder", "link in", "other file"])
@pytest.mark.parametrize("name", ["model.safetensors", "plan.yaml"])
def test_a_link_in_the_place_of_a_file(
    run: Run, tmp_path: Path, bundle: Path, name: str, place: str
) -> None:
    path = bundle / name
    outside = tmp_path / "outside"
    if place == "folder":
        outside.mkdir()
        outside = outside / name
    shutil.move(path, outside)
    if place == "link in":
        (bundle / "second").symlink_to(outside)
        outside = bundle / "second"
    path.symlink_to(outside)
    refuse_bundle(run, bundle, "bundle-path-unsafe", repr(name), f"where: {bundle}", "hint:")


def _name(order: int, name: str) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        old = ("plan.yaml", "model.safetensors", "adapters.safetensors")[order]
        manifest["files"][name] = manifest["files"].pop(old)

    return change


@pytest.mark.sample(5)
@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize(
    "name",
    ["../out/plan.yaml", "../plan.yaml", "/etc/passwd", "..", ".", "", "sub/plan.yaml",
     "./plan.yaml", "..\\plan.yaml", "plan.yaml/", "nul\0", "x" * 300, "\ud800", "two\nlines"],
    ids=short,
)  # fmt: skip
def test_a_file_name_that_leads_out_of_the_bundle(
    run: Run, tmp_path: Path, bundle: Path, order: int, name: str
) -> None:
    (tmp_path / "plan.yaml").write_text("outside")
    change_manifest(bundle, _name(order, name))
    code = "manifest-unreadable" if name == "\ud800" else "bundle-path-unsafe"
    refuse_bundle(run, bundle, code, f"where: {bundle}")


def test_a_header_that_lists_another_tensor_than_the_manifest(run: Run, bundle: Path) -> None:
    path = bundle / "adapters.safetensors"
    header, data = read_header(path)
    renamed = {key.replace("up.weight", "up.height", 1): claim for key, claim in header.items()}
    size = path.stat().st_size
    write_safetensors(path, json.dumps(renamed, separators=(",", ":")).encode(), data)
    change_manifest(bundle, lambda m: m["files"][path.name].update(num_bytes=path.stat().st_size))
    assert abs(path.stat().st_size - size) < 16
    says = ("does not hold the tensors that the manifest lists", f"where: {path}")
    refuse_bundle(run, bundle, "bundle-digest-mismatch", *says)


def test_a_header_that_gives_a_tensor_another_shape(run: Run, bundle: Path) -> None:
    path = bundle / "model.safetensors"
    header, data = read_header(path)
    header["head.weight"]["shape"].reverse()
    write_safetensors(path, header, data)
    change_manifest(bundle, lambda m: m["files"][path.name].update(num_bytes=path.stat().st_size))
    says = ("does not hold the tensors that the manifest lists", f"where: {path}")
    refuse_bundle(run, bundle, "bundle-digest-mismatch", *says)


def test_a_header_that_the_library_cannot_read(run: Run, bundle: Path) -> None:
    path = bundle / "model.safetensors"
    header, data = read_header(path)
    write_safetensors(path, {"__metadata__": {"number": 1}, **header}, data)
    change_manifest(bundle, lambda m: m["files"][path.name].update(num_bytes=path.stat().st_size))
    refuse_bundle(run, bundle, "bundle-digest-mismatch", f"where: {path}")


def test_base_tensors_of_another_checkpoint_under_a_matching_manifest(
    run: Run, tmp_path: Path, bundle: Path
) -> None:
    # Every digest agrees but the one of the whole source.
    other = {key: tensor + 1 for key, tensor in tensors_of("vit").items()}
    (tmp_path / "other").mkdir()
    forged = _expand(other, tmp_path / "other")
    shutil.copyfile(forged / "model.safetensors", bundle / "model.safetensors")
    entry = json.loads((forged / "manifest.json").read_text())["files"]["model.safetensors"]
    change_manifest(bundle, lambda m: m["files"].update({"model.safetensors": entry}))
    says = ("44 base tensors are not those of the source", f"where: {bundle}")
    refuse_bundle(run, bundle, "bundle-digest-mismatch", *says)


def _expand(tensors: dict[str, torch.Tensor], folder: Path) -> Path:
    save_file(tensors, folder / "vit.safetensors")
    (folder / "plan.yaml").write_text(PLAN)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    expand_checkpoint(
        str(folder / "vit.safetensors"), str(folder / "plan.yaml"), folder / "out", options=options
    )
    return folder / "out"


def _other_value(path: Path) -> None:
    tensors = load_file(path)
    tensors["blocks.1.mlp.fc1.bias"][3] += 1
    save_file(tensors, path)


def _other_shape(path: Path) -> None:
    tensors = load_file(path)
    save_file({**tensors, "head.weight": torch.zeros(7, 32), "head.bias": torch.zeros(7)}, path)


def _other_dtype(path: Path) -> None:
    save_file({key: tensor.half() for key, tensor in load_file(path).items()}, path)


def _shallower(path: Path) -> None:
    tensors = load_file(path)
    save_file({k: t for k, t in tensors.items() if not k.startswith("blocks.2")}, path)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (_other_value, "source-mismatch", "blocks.1.mlp.fc1.bias differs"),
        (_other_dtype, "source-mismatch", "differs"),
        (_other_shape, "source-mismatch", "head.weight is (7, 32)"),
        (_shallower, "source-mismatch", "12 tensors are missing, such as blocks.2"),
        (Path.unlink, "checkpoint-not-found", "no such file"),
        (lambda path: os.truncate(path, 1000), "checkpoint-unreadable", "truncated"),
        (lambda path: path.write_bytes(b""), "checkpoint-unreadable", ""),
    ],
    ids=short,
)
def test_another_checkpoint_than_the_bundle_was_made_from(
    run: Run, tmp_path: Path, bundle: Path, source: Path, change: Callable[[Path], None],
    code: str, says: str,
) -> None:  # fmt: skip
    other = tmp_path / "other.safetensors"
    shutil.copyfile(source, other)
    change(other)
    arguments = ("verify", bundle, "--source", other)
    refuse(run, tmp_path, *arguments, status=DATA, code=code, says=(says, str(other)))


def test_a_source_of_another_family(run: Run, tmp_path: Path, bundle: Path) -> None:
    other = write_decoder(tmp_path / "llama")
    arguments = ("verify", bundle, "--source", other)
    refuse(run, tmp_path, *arguments, status=DATA, code="source-mismatch", says=(str(other),))
