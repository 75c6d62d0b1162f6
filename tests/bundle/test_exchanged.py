"""A bundle that is replaced while it is read: all of one, never of two, and never "damaged"."""

import dataclasses
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch

import scalenet_cli.bundle.steady as steady
from scalenet_cli import expand_checkpoint, load
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.bundle.staging import staged_bundle
from scalenet_cli.bundle.trained import Start, copy_start
from scalenet_cli.commands.verify import verify
from scalenet_cli.errors import BundleDigestMismatch, BundleExchanged
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.load import plan_from_dict
from tests.laws.building import write_source
from tests.models import tiny_case

Tensors = Mapping[str, torch.Tensor]
PLAN: Mapping[str, Any] = {"version": 1, "mapping": "interpolate", "factor": 2}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One, another with other values in the same shapes, and one of another plan."""
    root, case = tmp_path_factory.mktemp("bundles"), tiny_case("vit")
    first = write_source(case, root / "first-source")
    doubled = deepcopy(case.model)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    second = write_source(dataclasses.replace(case, model=doubled), root / "second-source")
    cases = {"first": (first, 4, 0), "like": (second, 4, 1), "other": (second, 3, 1)}
    for name, (source, dim, seed) in cases.items():
        plan = plan_from_dict({**PLAN, "adapter": {"dim": dim}})
        expand_checkpoint(source, plan, root / name, options=SourceOptions(seed=seed))
    return {name: root / name for name in cases}


@pytest.fixture
def place(bundles: dict[str, Path], tmp_path: Path) -> Path:
    """Where the first one lies, and is read."""
    return shutil.copytree(bundles["first"], tmp_path / "out")


def replace(place: Path, bundle: Path) -> None:
    """What `expand --force` does in the end."""
    with staged_bundle(place, force=True) as folder:
        shutil.copytree(bundle, folder, dirs_exist_ok=True)


def tensors_of(bundle: Path) -> Tensors:
    return load(bundle).state_dict()


def equal(mine: Tensors, theirs: Tensors) -> bool:
    return mine.keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[key]) for key, tensor in mine.items()
    )


def once(
    monkeypatch: pytest.MonkeyPatch, seam: str, event: Callable[[], object], *, after: bool
) -> None:
    """Something happens before or after the first call of a function."""
    module, name = seam.rsplit(".", 1)
    module = f"scalenet_cli.{module}"
    function, left = vars(sys.modules[module])[name], [event]

    def wrapped(*arguments: Any, **named: Any) -> Any:
        happening = left.pop() if left else lambda: None
        if not after:
            happening()
        result = function(*arguments, **named)
        if after:
            happening()
        return result

    monkeypatch.setattr(f"{module}.{name}", wrapped)


SEAMS = [
    ("bundle.read.read_manifest", False),
    ("bundle.read.read_manifest", True),
    ("models.load.check_digests", False),
    ("bundle.digests.tensor_places", True),
    ("models.load.check_digests", True),
    ("models.load.map_tensors", True),
    ("models.load.load_plan", False),
    ("models.load.describe", False),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("other", ["like", pytest.param("other", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("seam", "after"), SEAMS)
def test_a_model_is_of_one_bundle(
    bundles: dict[str, Path], place: Path, monkeypatch: pytest.MonkeyPatch,
    seam: str, after: bool, other: str,
) -> None:  # fmt: skip
    once(monkeypatch, seam, lambda: replace(place, bundles[other]), after=after)
    found = tensors_of(place)
    monkeypatch.undo()
    assert equal(found, tensors_of(bundles[other]))


def test_verify_reads_one_bundle(
    bundles: dict[str, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = lambda: replace(place, bundles["like"])  # noqa: E731
    once(monkeypatch, "commands.verify.check_digests", event, after=True)
    report = verify(place)
    assert report.source_digest == open_bundle(bundles["like"]).manifest.source.digest


def test_what_is_mapped_was_checked(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file is exchanged for another of the same size, after it was checked."""
    changed = bytearray((place / "model.safetensors").read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    event = lambda: os.replace(tmp_path / "changed", place / "model.safetensors")  # noqa: E731, PTH105
    once(monkeypatch, "models.load.check_digests", event, after=True)
    with pytest.raises(BundleDigestMismatch):
        load(place)


def test_a_bundle_that_never_stays(
    bundles: dict[str, Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "_ATTEMPTS", 3)
    attempts: list[object] = []
    function = steady.open_bundle

    def exchanged(folder: Path) -> object:
        attempts.append(folder)
        found = function(folder)
        replace(place, bundles["like"])
        return found

    monkeypatch.setattr(steady, "open_bundle", exchanged)
    with pytest.raises(BundleExchanged, match="replaced 3 times"):
        load(place)
    assert len(attempts) == 3


def test_a_run_does_not_start_with_files_of_two_bundles(
    bundles: dict[str, Path], place: Path, tmp_path: Path
) -> None:
    opened = open_bundle(place)
    replace(place, bundles["like"])
    with pytest.raises(BundleExchanged, match="replaced while it was read"):
        copy_start(Start(opened, opened.manifest), tmp_path / "start")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


WRITER = """
import sys, time
import scalenet_cli.files.staged_folder as staging
from scalenet_cli import expand_checkpoint
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.load import plan_from_dict
if sys.argv[1] == "renames":
    staging._exchange = lambda one, other: False
plan = plan_from_dict({"version": 1, "mapping": "interpolate", "factor": 2, "adapter": {"dim": 4}})
until = time.monotonic() + 6
count = 0
while time.monotonic() < until:
    count += 1
    options = SourceOptions(seed=count % 2)
    expand_checkpoint(sys.argv[2 + count % 2], plan, sys.argv[4], options=options, force=True)
print(count)
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_reading_while_another_process_expands(
    bundles: dict[str, Path], place: Path, way: str
) -> None:
    """``renames`` is a file system that cannot exchange two names."""
    sources = [bundles["first"].with_name(f"{name}-source") for name in ("first", "second")]
    models = [tensors_of(bundles[name]) for name in ("first", "like")]
    command = [sys.executable, "-c", WRITER, way, *map(str, sources), str(place)]
    seen = [0, 0]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        while writer.poll() is None:
            found = tensors_of(place)
            matches = [equal(found, model) for model in models]
            assert any(matches)
            seen[matches.index(True)] += 1
            time.sleep(0.001)
        assert writer.stdout is not None
        count = int(writer.stdout.read())
    assert writer.returncode == 0
    assert min(seen) > 1, (seen, count)
