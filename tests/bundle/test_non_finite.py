"""NaN and infinity are counted while bytes are hashed, recorded, named, and refused on demand."""

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalenet_cli import SourceOptions, expand_checkpoint, inspect, verify
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.bundle.tensor_scan import NonFiniteCounter
from scalenet_cli.bundle.trained import write_trained
from scalenet_cli.families.sources.tensors import DTYPE_BYTES, TORCH_NAMES
from tests.cli.helpers import DATA, USAGE, Run, change_manifest, refuse
from tests.conftest import PLAN
from tests.models import tiny_case
from tests.training.runs import PLAIN, train, write_data

HEADS = SourceOptions(model_kwargs={"num_heads": 2})
PLACES = {"blocks.1.mlp.fc1.weight": 2, "blocks.1.norm1.weight": 1, "head.weight": 3}


def patterns(dtype: torch.dtype, size: int) -> torch.Tensor:
    """Every value of a narrow type; of a wide one random bits, a third of them with exponents of
    ones alone, which are NaN or infinite."""
    if size <= 2:
        bits = torch.arange(256**size)
        return bits.to(torch.uint8 if size == 1 else torch.uint16).view(dtype)
    torch.manual_seed(0)
    values = torch.randint(0, 256, (200_000, size), dtype=torch.uint8)
    values[::3, -1] |= 0x7F
    values[::3, -2] |= 0xF0 if size == 8 else 0x80
    values[:2, :] = 0
    values[0, -2:] = torch.tensor([0xF0 if size == 8 else 0x80, 0x7F])  # infinity itself
    return values.view(-1).view(dtype)


@pytest.mark.parametrize("name", DTYPE_BYTES)
def test_the_count_is_that_of_torch_wherever_chunks_end(name: str) -> None:
    dtype, size = getattr(torch, TORCH_NAMES[name]), DTYPE_BYTES[name]
    tensor = torch.tensor([True, False] * 500) if name == "BOOL" else patterns(dtype, size)
    generator = random.Random(0)
    for longest in (1, 13, 4099, 2**18 + 1, tensor.nbytes):
        values = tensor if longest > 13 else tensor[-60:]
        expected = 0
        if dtype.is_floating_point:
            expected = int((~(values if size == 8 else values.float()).isfinite()).sum())
            assert expected > 0
        raw = memoryview(values.view(torch.uint8).numpy().data)
        counter, at = NonFiniteCounter(name), 0
        while at < len(raw):
            step = longest if longest == len(raw) else generator.randint(0, longest)
            counter.update(raw[at : at + step])
            at += step
        assert counter.count == expected


def write_unsound(folder: Path, kind: str = "safetensors") -> Path:
    """A checkpoint with NaN and both infinities in a block's Linear, its norm, and the head."""
    folder.mkdir(exist_ok=True)
    state = {key: tensor.clone() for key, tensor in tiny_case("vit").model.state_dict().items()}
    state["blocks.1.mlp.fc1.weight"][3, :2] = torch.tensor([float("nan"), float("-inf")])
    state["blocks.1.norm1.weight"][0] = float("inf")
    state["head.weight"][2, 4:7] = float("nan")
    if kind == "pth":
        torch.save(state, folder / "x.pth")
        return folder / "x.pth"
    if kind == "bf16":
        state = {key: tensor.bfloat16() for key, tensor in state.items()}
    save_file(state, folder / "x.safetensors")
    return folder / "x.safetensors"


@pytest.fixture(scope="module")
def unsound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unsound")
    (folder / "plan.yaml").write_text(PLAN)
    source = write_unsound(folder)
    expand_checkpoint(source, folder / "plan.yaml", folder / "out", options=HEADS)
    return folder


def counts(report: Any) -> dict[str, int]:
    """Of the base's tensors."""
    return {t.key: t.non_finite for t in report.non_finite if t.file == "model.safetensors"}


@pytest.mark.sample(2)
@pytest.mark.parametrize("kind", ["bf16", "pth"])
def test_expand_counts_and_records(kind: str, tmp_path: Path) -> None:
    source, out = write_unsound(tmp_path, kind), tmp_path / "out"
    (tmp_path / "plan.yaml").write_text(PLAN)
    report = expand_checkpoint(source, tmp_path / "plan.yaml", out, options=HEADS)
    assert counts(report) == PLACES
    # The norm of the second use is a copy of the first one's.
    copied = [t for t in report.non_finite if t.file == "adapters.safetensors"]
    assert [(t.key, t.non_finite, t.values) for t in copied] == [("blocks.3.norm1.weight", 1, 32)]
    assert "blocks.1.mlp.fc1.weight of model.safetensors (2 of 4,096 values)" in report.notes[-1]
    assert report.notes[-1].startswith("NaN or infinite values are in 4 tensors: ")
    assert report.notes[-1].endswith(", and 1 more")
    content = json.loads((out / "manifest.json").read_text())
    assert content["format"] == 2
    tensors = content["files"]["model.safetensors"]["tensors"]
    assert {k: e["non_finite"] for k, e in tensors.items() if "non_finite" in e} == PLACES
    assert inspect(str(out)).non_finite == verify(out).non_finite == report.non_finite
    assert inspect(str(out)).notes == verify(out).notes == report.notes[-1:]


def test_commands_name_them(run: Run, unsound: Path) -> None:
    name = "note: NaN or infinite values are in 4 tensors"
    for command in ("inspect", "verify"):
        result = run(command, unsound / "out", "--json")
        assert result.exit_code == 0
        assert name in result.stderr
        found = json.loads(result.stdout)["non_finite"]
        assert {t["key"]: t["non_finite"] for t in found if t["file"] == "model.safetensors"} == (
            PLACES
        )


def test_strict_refuses_and_leaves_nothing(run: Run, unsound: Path, tmp_path: Path) -> None:
    arguments = (
        unsound / "x.safetensors", "--plan", unsound / "plan.yaml", "--strict",
        "--model-kwargs", "num_heads=2",
    )  # fmt: skip
    says = ("blocks.1.mlp.fc1.weight of model.safetensors (2 of 4,096 values)", "x.safetensors")
    refuse(
        run, tmp_path, "expand", *arguments, "-o", tmp_path / "out",
        status=DATA, code="source-not-finite", says=says,
    )  # fmt: skip
    shutil.copytree(unsound / "out", tmp_path / "old")
    refuse(
        run, tmp_path, "expand", *arguments, "-o", tmp_path / "old", "--force",
        status=DATA, code="source-not-finite", says=says,
    )  # fmt: skip
    refuse(
        run, tmp_path, "verify", tmp_path / "old", "--strict",
        status=DATA, code="bundle-not-finite", says=says[:1],
    )  # fmt: skip
    refuse(
        run, tmp_path, "expand", *arguments, "-o", tmp_path / "new", "--dry-run",
        status=USAGE, code="option", says=("--dry-run reads none",),
    )  # fmt: skip


def test_a_sound_bundle_is_written_as_ever(run: Run, tmp_path: Path) -> None:
    save_file(dict(tiny_case("vit").model.state_dict()), tmp_path / "x.safetensors")
    (tmp_path / "plan.yaml").write_text(PLAN)
    result = run(
        "expand", tmp_path / "x.safetensors", "--plan", tmp_path / "plan.yaml", "--strict",
        "-o", tmp_path / "out", "--model-kwargs", "num_heads=2",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    text = (tmp_path / "out" / "manifest.json").read_text()
    assert "non_finite" not in text
    assert json.loads(text)["format"] == 1
    assert run("verify", tmp_path / "out", "--strict").exit_code == 0
    assert inspect(str(tmp_path / "out")).non_finite == ()


def test_a_bundle_of_before_is_counted_by_verify(run: Run, unsound: Path, tmp_path: Path) -> None:
    """Format 1 recorded nothing. A record that says otherwise than the bytes is refused."""
    out = Path(shutil.copytree(unsound / "out", tmp_path / "out"))
    known = verify(out).non_finite

    def forget(manifest: dict[str, Any]) -> None:
        manifest["format"] = 1
        for file in manifest["files"].values():
            for entry in file["tensors"].values():
                entry.pop("non_finite", None)

    change_manifest(out, forget)
    assert inspect(str(out)).non_finite == ()
    assert verify(out).non_finite == known

    def invent(manifest: dict[str, Any]) -> None:
        manifest["format"] = 2
        manifest["files"]["model.safetensors"]["tensors"]["cls_token"]["non_finite"] = 1

    change_manifest(out, invent)
    refuse(
        run, tmp_path, "verify", out, status=DATA, code="manifest-unreadable",
        says=("counts of NaN",),
    )  # fmt: skip


def test_training_keeps_and_makes_records(unsound: Path, tmp_path: Path) -> None:
    """A replaced head stays in the base with its NaN; what a run writes is counted as well."""
    source = load_file(unsound / "x.safetensors")
    for key in PLACES.keys() - {"head.weight"}:
        source[key].nan_to_num_(0.1, 0.1, 0.1)
    save_file(source, tmp_path / "x.safetensors")
    expand_checkpoint(
        tmp_path / "x.safetensors", unsound / "plan.yaml", tmp_path / "out", options=HEADS
    )
    data = write_data(tmp_path / "data", classes=3, train=8, val=3)
    run = tmp_path / "run"
    train(tmp_path / "out", data, run, {**PLAIN, "max_steps": 1, "eval_steps": 1})
    assert counts(inspect(str(run))) == counts(verify(run)) == {"head.weight": 3}

    start = open_bundle(run / "last")
    own = load_file(run / "last" / "adapters.safetensors")
    key = "blocks.3.mlp.fc1.adapter.up.weight"
    own[key][0, 0] = float("inf")
    write_trained(tmp_path / "bad", start, start.manifest, base={}, instances=own, story="-")
    (_, found) = inspect(str(tmp_path / "bad")).non_finite
    assert (found.file, found.key, found.non_finite) == ("adapters.safetensors", key, 1)
    own[key][0, 0] = 1.0
    base = load_file(run / "last" / "model.safetensors")
    base["head.weight"].nan_to_num_()
    write_trained(tmp_path / "good", start, start.manifest, base=base, instances=own, story="-")
    assert open_bundle(tmp_path / "good").manifest.format == 1
