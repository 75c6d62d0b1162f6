"""A loaded model computes what its source computes, bit for bit, for a single sample as well.

Kernels add up in another order where a tensor does not lie as PyTorch allocates it.
"""

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalenet_cli import expand_checkpoint, load, verify
from scalenet_cli.bundle import tensor_files
from scalenet_cli.bundle.tensor_files import TensorFile, write_file
from scalenet_cli.families.sources.safetensors_file import read_header
from scalenet_cli.families.sources.tensors import hold
from scalenet_cli.models.load import load_bundle
from scalenet_cli.models.target import open_target
from scalenet_cli.tasks.image_classification.load_model import load_classifier
from tests.cli.helpers import change_manifest
from tests.laws.building import make_plan, sources_of, write_plan, write_source
from tests.laws.oracle import run_in_mapping_order
from tests.models import TinyCase, tiny_case
from tests.training.runs import slow

Writer = Callable[[TinyCase, Path], Path]


def single(case: TinyCase) -> TinyCase:
    """The case with one sample: a matrix product of one row takes another path."""
    inputs = {k: v[:1] if isinstance(v, torch.Tensor) else v for k, v in case.inputs.items()}
    return replace(case, inputs=inputs)


def shift(path: Path, remainder: int) -> None:
    """Makes the first tensor begin at that remainder of 64 bytes, with spaces in the header."""
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = data[8:end].rstrip()
    header += b" " * ((remainder - 8 - len(header)) % 64)
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[end:])


def write_shifted(case: TinyCase, folder: Path) -> Path:
    """A source whose safetensors file begins its tensors where no kernel wants them."""
    source = write_source(case, folder)
    shift(source / "model.safetensors", 36)
    return source


def write_pickled(case: TinyCase, folder: Path) -> Path:
    """The same source as a ``.bin`` file, which is written anew into a bundle."""
    source = write_source(case, folder)
    torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
    (source / "model.safetensors").unlink()
    return source


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("vit", write_pickled),
        ("deit_distilled", write_shifted),
        ("llama_tied", write_shifted),
        slow("vit", write_shifted),
        slow("deit_distilled", write_pickled),
        slow("swin", write_shifted),
        slow("swin", write_pickled),
        slow("llama_tied", write_pickled),
        slow("gemma3", write_shifted),
    ],
)
def test_one_sample_gives_the_same_bits(name: str, write: Writer, tmp_path: Path) -> None:
    case = single(tiny_case(name))
    source = write(case, tmp_path / "source")
    if case.family.task == "image-classification":
        assert torch.equal(
            case.logits(load_classifier(open_target(source, weights=True)).model),
            case.logits(case.model),
        )
    for start in ("identity", "copy"):
        plan = make_plan(case, start=start)
        expand_checkpoint(source, write_plan(plan, tmp_path / f"{start}.yaml"), tmp_path / start)
        model = load(tmp_path / start)
        assert all(parameter.data_ptr() % 64 == 0 for parameter in model.parameters())
        expected = run_in_mapping_order(case, sources_of(case, plan))
        if start == "identity":
            expected = case.logits(case.model)
        assert torch.equal(case.logits(model), expected), start


def is_mapped(address: int, path: Path) -> bool:
    """Whether the address is one of a page of the file."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(place, 16) for place in line.split()[0].split("-"))
        if begin <= address < end:
            return line.endswith(str(path.resolve()))
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("aligned", [True, False])
def test_only_what_is_not_aligned_is_copied(aligned: bool, tmp_path: Path) -> None:
    """All the rest stays in the file's own pages; a bundle of before is opened as well."""
    case = single(tiny_case("deit_distilled"))  # whose five classes have biases of 20 bytes
    source, out = write_source(case, tmp_path / "source"), tmp_path / "out"
    plan = write_plan(make_plan(case, start="identity"), tmp_path / "plan.yaml")
    expand_checkpoint(source, plan, out)
    base = out / "model.safetensors"
    if not aligned:
        shift(base, 8)
        size = base.stat().st_size
        change_manifest(out, lambda m: m["files"][base.name].update(num_bytes=size))
    loaded = load_bundle(out)
    verify(out)
    assert torch.equal(case.logits(loaded.model), case.logits(case.model))
    names = {key: loaded.base_keys[key][0] for key in read_header(base).tensors}
    copied = {
        key for key, name in names.items()
        if not is_mapped(loaded.model.get_parameter(name).data_ptr(), base)
    }  # fmt: skip
    assert copied == {k for k, place in read_header(base).tensors.items() if place.offset % 64}
    assert "patch_embed.proj.weight" in copied  # it comes after the biases
    assert ("blocks.0.attn.qkv.weight" in copied) != aligned


def test_a_new_file_is_aligned_but_for_what_follows_odd_sizes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"a": 3, "b": 64, "c": 16, "d": 5, "e": 128, "f": 0}
    tensors = {key: torch.randn(size) for key, size in sizes.items()}
    tensors["g"] = torch.randn(3).bfloat16()
    file = TensorFile("x.safetensors", {key: hold(t, key) for key, t in tensors.items()})
    write_file(tmp_path, "base", file)
    found = load_file(tmp_path / "x.safetensors")  # the library allows no holes
    assert found.keys() == tensors.keys()
    assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    places = read_header(tmp_path / "x.safetensors").tensors
    assert {key for key, place in places.items() if place.offset % 64} == {"d", "g"}


def test_a_header_too_long_for_spaces_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library opens no file with a longer header, so no bundle may have one."""
    save_file({"a": torch.zeros(4)}, tmp_path / "source.safetensors")
    shift(tmp_path / "source.safetensors", 56)
    found = read_header(tmp_path / "source.safetensors")
    monkeypatch.setattr(tensor_files, "MAX_HEADER_BYTES", len(found.header) + 7)
    write_file(tmp_path, "base", TensorFile("copy.safetensors", found.tensors, found.header))
    assert read_header(tmp_path / "copy.safetensors").header == found.header
    assert json.loads(found.header)["a"]["data_offsets"] == [0, 16]
