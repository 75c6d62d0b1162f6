"""Bundles whose manifest is damaged, of another version, or contradicts the rest."""

import copy
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from scalenet_cli import inspect, load
from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.commands.verify import verify
from scalenet_cli.errors import UPGRADE_HINT, ScalenetError
from tests.cli.helpers import (
    DATA,
    Change,
    Run,
    change_manifest,
    refuse,
    refuse_bundle,
    set_entry,
    short,
    write_bundle,
)
from tests.images import write_images


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    """A bundle whose manifest is to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "out"))


def refuse_everywhere(run: Run, bundle: Path, code: str, *says: str) -> None:
    """Every command that reads the manifest refuses it in the same words."""
    message = refuse_bundle(run, bundle, code, *says)
    for command in ("count-params", "flops", "inspect"):
        assert refuse(run, bundle, command, bundle, status=DATA, code=code) == message


@pytest.mark.sample(3)
@pytest.mark.parametrize("found", [3, 0, -1, 1.5, "1", None, True, [1], {"a": 1}, 10**30])
def test_a_format_that_is_not_known(run: Run, bundle: Path, found: object) -> None:
    change_manifest(bundle, lambda manifest: manifest.update(format=found))
    refuse_everywhere(
        run, bundle, "bundle-format-unknown",
        f"has format {found!r}; this version reads formats 1 and 2",
        f"where: {bundle / 'manifest.json'}", UPGRADE_HINT,
    )  # fmt: skip


def test_a_newer_format_is_named_before_its_unknown_keys(run: Run, bundle: Path) -> None:
    (bundle / "manifest.json").write_text('{"format": 7, "shape": "of another time"}')
    refuse_everywhere(run, bundle, "bundle-format-unknown", "format 7")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe{}",
        b"[" * 200_000,
        b'{"a":' * 100_000,
        b'{"format": ' + b"1" * 5000 + b"}",
        b'{"format": 1, "seed": ' + b"1" * 5000 + b"}",
        b'"\\ud800"',
    ],
    ids=short,
)
def test_a_manifest_that_cannot_be_read(run: Run, bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    refuse_everywhere(run, bundle, "manifest-unreadable", f"where: {bundle / 'manifest.json'}")


def test_a_manifest_without_its_digest(run: Run, bundle: Path) -> None:
    change_manifest(bundle, lambda manifest: manifest.pop("digest"), sealed=False)
    where = f"where: {bundle / 'manifest.json'}"
    refuse_everywhere(run, bundle, "manifest-unreadable", "no digest", where)


def test_a_manifest_that_is_too_large_is_refused_unread(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "manifest.json").touch()
    os.truncate(folder / "manifest.json", 2**40)
    arguments = ("verify", folder)
    says = ("100000000", str(folder))
    refuse(run, tmp_path / "none", *arguments, status=DATA, code="manifest-unreadable", says=says)


def test_a_manifest_whose_key_stands_twice(run: Run, bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text('{"seed": 5, ' + path.read_text().lstrip()[1:])
    refuse_everywhere(run, bundle, "manifest-unreadable", "seed", f"where: {path}")


@pytest.mark.parametrize("command", ["eval", "diagnose"])
def test_a_family_that_is_not_known_is_the_manifests_fault(
    run: Run, bundle: Path, tmp_path: Path, command: str
) -> None:
    images = write_images(tmp_path / "data" / "val", ("one", "two"), 2).parent
    change_manifest(bundle, set_entry("source", "family", value="nope"))
    output = ("-o", tmp_path / "report") if command == "diagnose" else ()
    says = ("no family is called nope", f"where: {bundle}", "hint:")
    refuse(
        run, tmp_path, command, bundle, "--data", images, *output,
        status=DATA, code="manifest-unreadable", says=says,
    )  # fmt: skip


SHA = ("files", "plan.yaml", "sha256")
FIRST = ("files", "model.safetensors", "tensors", "head.bias")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (set_entry("extra", value=1), "extra"),
        (set_entry("two\nlines", value=1), "two"),
        (set_entry("k" * 100_000, value=1), ""),
        (set_entry("source", "extra", value=1), "source.extra"),
        (set_entry("plan", "adaptor", value={}), "plan.adaptor"),
        (set_entry("plan", "adapter", "dim", value=-1), "plan.adapter"),
        (set_entry("files", "plan.yaml", "extra", value=1), "files.plan.yaml.extra"),
        (set_entry("files", value=[]), "files"),
        (set_entry("files", "plan.yaml", "num_bytes", value=-1), "num_bytes"),
        (set_entry("files", "plan.yaml", "num_bytes", value="many"), "num_bytes"),
        (set_entry("files", "plan.yaml", "role", value="code"), "role"),
        (set_entry(*SHA, value="abc"), "sha256"),
        (set_entry(*FIRST, "shape", value=[-5]), "shape"),
        (set_entry(*FIRST, "shape", value="5"), "shape"),
        (set_entry(*FIRST, "sha256", value="Z" * 64), "sha256"),
        (set_entry("ties", value=[]), "ties"),
        (set_entry("layout", 0, "sources", value=[-1]), "layout.0.sources"),
        (set_entry("layout", 0, "sources", value=[]), "layout.0.sources"),
        (set_entry("layout", 0, "sources", value=[0] * 5000), "layout.0.sources"),
        (set_entry("layout", 0, "depth", value=10**9), "layout.0.depth"),
        (set_entry("seed", value="x"), "seed"),
        (set_entry("seed", value=None), "seed"),
        (set_entry("parameters", "stored", value="x"), "parameters.stored"),
        (set_entry("flops", "macs", value=None), "flops.macs"),
        (lambda manifest: manifest.pop("source"), "source"),
        (lambda manifest: manifest.pop("ties"), "ties"),
        (lambda manifest: manifest["source"].pop("digest"), "source.digest"),
    ],
    ids=short,
)
def test_a_manifest_with_an_unknown_missing_or_wrong_entry(
    run: Run, bundle: Path, change: Change, says: str
) -> None:
    change_manifest(bundle, change)
    where = f"where: {bundle / 'manifest.json'}"
    refuse_everywhere(run, bundle, "manifest-unreadable", says, where)


def _paths(entry: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    found: list[tuple[str | int, ...]] = []
    items: Any = entry.items() if isinstance(entry, dict) else (
        enumerate(entry) if isinstance(entry, list) else ()
    )  # fmt: skip
    for key, value in items:
        found += [(*path, key), *_paths(value, (*path, key))]
    return found


VALUES = st.sampled_from(
    [None, True, "", "x", "\ud800", "a\nb", [], [0], {}, {"a": 1}]
) | st.sampled_from([-1, 0, 1, 2, 7, 0.5, 10**9, 10**30])
QUICK = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def _look(bundle: Path, whole: Path) -> None:
    """Nothing but a ScalenetError comes out; or it did not matter: the model is still the same."""
    with suppress(ScalenetError):
        inspect(str(bundle))
    try:
        verify(str(bundle))
    except ScalenetError:
        return
    found, expected = load(bundle).state_dict(), load(whole).state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


@given(data=st.data())
@QUICK
def test_one_changed_entry_is_refused_or_does_not_matter(
    whole: Path, bundle: Path, data: st.DataObject
) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    path = data.draw(st.sampled_from(_paths(manifest)))
    changed = copy.deepcopy(manifest)
    set_entry(*path, value=data.draw(VALUES))(changed)
    changed["digest"] = digest_content(changed)
    (bundle / "manifest.json").write_text(json.dumps(changed))
    _look(bundle, whole)


@given(data=st.data())
@QUICK
def test_one_wrong_byte_is_refused_or_does_not_matter(
    whole: Path, bundle: Path, data: st.DataObject
) -> None:
    content = bytearray((whole / "manifest.json").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (bundle / "manifest.json").write_bytes(content)
    _look(bundle, whole)


@given(data=st.data())
@QUICK
def test_a_truncated_manifest_is_refused(whole: Path, bundle: Path, data: st.DataObject) -> None:
    content = (whole / "manifest.json").read_bytes().rstrip()
    kept = data.draw(st.integers(0, len(content) - 1))
    (bundle / "manifest.json").write_bytes(content[:kept])
    with pytest.raises(ScalenetError, match="manifest-unreadable"):
        load(bundle)
