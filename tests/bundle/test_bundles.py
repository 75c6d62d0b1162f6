"""Bundles as files: shards, streaming, what another library sees, what the manifest says."""

import hashlib
import json
import weakref
from pathlib import Path
from threading import Event

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import scalenet_cli.bundle.tensor_files as tensor_files
from scalenet_cli import expand_checkpoint, load, ties
from scalenet_cli.bundle.digests import source_digest
from scalenet_cli.bundle.manifest import TensorEntry, digest_content, digest_tensors
from scalenet_cli.bundle.read import open_bundle
from scalenet_cli.bundle.staging import staged_bundle
from scalenet_cli.bundle.tensor_files import Cancelled, Computed, TensorFile, new_files, write_file
from scalenet_cli.families.sources.safetensors_file import read_header
from scalenet_cli.families.sources.tensors import TensorSpec, hold
from tests.laws.building import make_plan, write_plan, write_source
from tests.models import TinyCase, tiny_case


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return expand_case(tiny_case("swin"), tmp_path)


def expand_case(case: TinyCase, folder: Path, name: str = "out") -> Path:
    source = write_source(case, folder / f"{name}-source")
    plan = write_plan(make_plan(case, start="identity"), folder / f"{name}.yaml")
    expand_checkpoint(str(source), str(plan), folder / name)
    return folder / name


def test_tensors_of_mixed_types_are_aligned_and_read_by_the_library(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {
        "z.half": torch.randn(3).half(),
        "a.bool": torch.tensor([True, False, True]),
        "m.double": torch.randn(2, 2).double(),
        "b.bf16": torch.randn(5).bfloat16(),
        "empty": torch.zeros(0, 4),
        "scalar": torch.tensor(3.5),
    }
    file = TensorFile("x.safetensors", {key: hold(t, key) for key, t in tensors.items()})
    entry = write_file(tmp_path, "base", file)
    found = load_file(tmp_path / "x.safetensors")
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in tensors.items())
    for key, place in read_header(tmp_path / "x.safetensors").tensors.items():
        assert place.offset % tensors[key].element_size() == 0
        raw = b"".join(bytes(chunk) for chunk in place.chunks())
        assert entry.tensors[key].sha256 == hashlib.sha256(raw).hexdigest()


def test_shards_hold_every_tensor_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 100)
    tensors = {f"t{n}": hold(torch.full((n,), float(n)), "") for n in range(1, 20)}
    files = new_files("adapters", tensors)
    assert files[0].name == f"adapters-00001-of-{len(files):05d}.safetensors"
    keys = [key for file in files for key in file.tensors]
    assert sorted(keys) == sorted(tensors)
    for file in files:
        size = sum(tensor.spec.num_bytes for tensor in file.tensors.values())
        assert size <= 100 or len(file.tensors) == 1


def test_a_sharded_bundle_loads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = tiny_case("vit")
    whole = load(expand_case(case, tmp_path, "whole"))
    monkeypatch.setattr(tensor_files, "MAX_SHARD_BYTES", 4000)
    sharded = expand_case(case, tmp_path, "sharded")
    assert len(list(sharded.glob("adapters-*.safetensors"))) > 2
    assert torch.equal(case.logits(load(sharded)), case.logits(whole))


def test_computed_tensors_are_made_and_forgotten_one_at_a_time(tmp_path: Path) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    counts = []

    def compute() -> torch.Tensor:
        counts.append(len(alive))
        tensor = torch.zeros(1000)
        alive.add(tensor)
        return tensor

    tensors = {f"t{n}": Computed(TensorSpec("F32", (1000,)), compute) for n in range(9)}
    write_file(tmp_path, "instances", TensorFile("x.safetensors", tensors))
    assert len(counts) == 9
    assert max(counts) <= 1


def test_a_stopped_writer_stops(tmp_path: Path) -> None:
    stop = Event()
    stop.set()
    file = TensorFile("x.safetensors", {"a": hold(torch.zeros(4), "a")})
    with pytest.raises(Cancelled):
        write_file(tmp_path, "base", file, stop)


def test_a_failure_while_writing_leaves_the_old_bundle(bundle: Path) -> None:
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    siblings = sorted(bundle.parent.iterdir())

    def interrupted() -> None:
        with staged_bundle(bundle, force=True) as folder:
            (folder / "manifest.json").write_text("{}")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert sorted(bundle.parent.iterdir()) == siblings


def test_the_manifest_describes_every_file_and_tensor(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    assert set(manifest.files) == {p.name for p in bundle.iterdir()} - {"manifest.json"}
    for name, entry in manifest.files.items():
        assert entry.num_bytes == (bundle / name).stat().st_size
        if entry.role == "carried":
            assert entry.sha256 == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
            continue
        with safe_open(bundle / name, framework="pt") as file:
            assert set(file.keys()) == set(entry.tensors)
            for key in entry.tensors:
                assert tuple(file.get_slice(key).get_shape()) == entry.tensors[key].shape
    assert source_digest(manifest) == manifest.source.digest


def test_ties_name_the_keys_of_the_loaded_model(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    model, state = load(bundle), None
    state = model.state_dict()
    base = load_file(bundle / "model.safetensors")
    assert manifest.ties
    assert {(key, *others) for key, others in ties(model).items()} == set(manifest.ties.values())
    for canonical, aliases in manifest.ties.items():
        assert len({state[alias].data_ptr() for alias in aliases}) == 1
        assert torch.equal(state[aliases[0]], base[canonical])
    table = "layers.1.blocks.0.attn.relative_position_bias_table"
    assert manifest.ties[table] == (
        "layers.1.blocks.0.attn.shared_relative_position_bias_table.table",
        "layers.1.blocks.1.attn.shared_relative_position_bias_table.table",
    )


def test_nothing_of_this_machine_is_in_a_bundle(bundle: Path) -> None:
    for path in bundle.iterdir():
        data = path.read_bytes()
        assert str(bundle.parent).encode() not in data
        assert str(Path.home()).encode() + b"/" not in data


def test_the_digest_of_a_source_does_not_depend_on_format_or_order(tmp_path: Path) -> None:
    case = tiny_case("vit")
    one = expand_case(case, tmp_path, "one")
    state = case.model.state_dict()
    torch.save(dict(reversed(state.items())), tmp_path / "x.pth")
    plan = write_plan(make_plan(case), tmp_path / "p.yaml")
    from scalenet_cli import SourceOptions

    options = SourceOptions(model_kwargs={"num_heads": 2})
    expand_checkpoint(str(tmp_path / "x.pth"), str(plan), tmp_path / "two", options=options)
    digests = {json.loads((b / "manifest.json").read_text())["source"]["digest"]
               for b in (one, tmp_path / "two")}  # fmt: skip
    assert len(digests) == 1


def test_digest_tensors_sees_every_part() -> None:
    entry = TensorEntry(dtype="F32", shape=(2, 3), sha256="0" * 64)
    digests = {
        digest_tensors({"a": entry}),
        digest_tensors({"b": entry}),
        digest_tensors({"a": entry.model_copy(update={"shape": (3, 2)})}),
        digest_tensors({"a": entry.model_copy(update={"dtype": "F16"})}),
        digest_tensors({"a": entry.model_copy(update={"sha256": "1" * 64})}),
    }
    assert len(digests) == 5


def test_trained_norms_of_the_pretrained_occurrence_override_the_base(bundle: Path) -> None:
    """What a finetune writes: an instance tensor under the scaled model's key wins."""
    own = load_file(bundle / "adapters.safetensors")
    key = "layers.0.blocks.0.norm1.weight"
    assert key not in own
    own[key] = torch.full((32,), 7.0)
    save_file(own, bundle / "adapters.safetensors")
    manifest = json.loads((bundle / "manifest.json").read_text())
    entry = manifest["files"]["adapters.safetensors"]
    entry["num_bytes"] = (bundle / "adapters.safetensors").stat().st_size
    sha = hashlib.sha256(own[key].numpy().tobytes()).hexdigest()
    entry["tensors"][key] = {"dtype": "F32", "shape": [32], "sha256": sha}
    manifest["digest"] = digest_content(manifest)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    model = load(bundle)
    assert torch.equal(model.layers[0].blocks[0].norm1.weight, own[key])
    assert not torch.equal(model.layers[0].blocks[1].norm1.weight, own[key])
