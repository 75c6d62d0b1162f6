"""Checkpoints as people have them: official files, training checkpoints, folders, shards, hubs."""

import argparse
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaForCausalLM

from scalenet_cli import SourceOptions, expand_checkpoint, expand_module, load, verify
from scalenet_cli.errors import (
    ArchitectureMismatch,
    MissingExtra,
    PlanError,
    UnknownBlockTensor,
)
from scalenet_cli.families import family
from scalenet_cli.families.sources import open_source
from tests.families.helpers import holds
from tests.laws.building import write_source
from tests.models import tiny_case

HEADS = {"num_heads": 2}


@pytest.fixture(scope="module")
def deit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("deit_tiny_patch16_224")


def as_official_swin(model: nn.Module) -> dict[str, torch.Tensor]:
    """timm's Swin under the keys of the authors' release, with its buffers."""
    state = {}
    for key, tensor in [*model.state_dict().items(), *model.named_buffers()]:
        old = re.sub(
            r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", key
        )
        state[old.replace("head.fc.", "head.")] = tensor
    return state


def test_the_official_deit_file(deit: nn.Module, tmp_path: Path) -> None:
    torch.save({"model": deit.state_dict()}, tmp_path / "deit.pth")
    source = open_source(str(tmp_path / "deit.pth"))
    assert source.architecture.name == "deit_tiny_patch16_224"
    assert source.preprocessing["mean"] == (0.485, 0.456, 0.406)
    assert "vit_tiny_patch16_224" in source.notes[0]
    assert holds(source, deit)


@pytest.mark.slow
def test_the_official_swin_file_with_old_keys_and_buffers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("swin_tiny_patch4_window7_224")
    torch.save({"model": as_official_swin(model)}, tmp_path / "swin.pth")
    source = open_source(str(tmp_path / "swin.pth"))
    assert source.architecture.name == "swin_tiny_patch4_window7_224"
    assert holds(source, model)
    assert source.renamed["layers.1.downsample.norm.weight"] == "layers.0.downsample.norm.weight"
    assert source.renamed["head.fc.weight"] == "head.weight"
    assert all("relative_position_index" in k or "attn_mask" in k for k in source.dropped)


@pytest.mark.slow
def test_distilled_deit_and_another_number_of_classes(tmp_path: Path) -> None:
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7)
    torch.save(model.state_dict(), tmp_path / "d.pth")
    source = open_source(str(tmp_path / "d.pth"))
    assert source.architecture.name == "deit_tiny_distilled_patch16_224"
    assert source.architecture.arguments == {"num_classes": 7}
    assert holds(source, model)


@pytest.mark.parametrize("name", ["vit", "deit_distilled", "vit_variant", "swin"])
def test_shapes_without_a_name_need_only_what_shapes_do_not_show(name: str, tmp_path: Path) -> None:
    case = tiny_case(name)
    torch.save(case.model.state_dict(), tmp_path / "x.pth")
    extra = {"init_values": 0.1, "qk_norm": True} if name == "vit_variant" else {}
    arguments = {} if name == "swin" else {**HEADS, **extra}
    source = open_source(str(tmp_path / "x.pth"), arguments=arguments)
    assert holds(source, case.model)
    assert "built from its shapes" in source.notes[-1]
    built = case.family.build(source.architecture)
    assert [p.shape for p in built.parameters()] == [p.shape for p in case.model.parameters()]
    if name == "vit":
        assert built.blocks[0].attn.num_heads == 2


def test_model_kwargs_decide_epsilon(tmp_path: Path) -> None:
    case = tiny_case("vit")
    torch.save(case.model.state_dict(), tmp_path / "x.pth")
    source = open_source(str(tmp_path / "x.pth"), arguments={**HEADS, "norm_eps": 1e-5})
    assert case.family.build(source.architecture).norm.eps == 1e-5


def _legacy(state: dict[str, Any], path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def _safetensors(state: dict[str, Any], path: Path) -> None:
    save_file(state, path.with_suffix(".safetensors"))
    path.with_suffix(".safetensors").rename(path)


def _prefixed(state: dict[str, Any], path: Path) -> None:
    torch.save({f"module._orig_mod.{key}": tensor for key, tensor in state.items()}, path)


def _timm_training(state: dict[str, Any], path: Path) -> None:
    other = {key: torch.zeros_like(tensor) for key, tensor in state.items()}
    options = argparse.Namespace(lr=0.1, model="x")
    torch.save(
        {"epoch": 3, "args": options, "metric": 81.5, "state_dict": other, "state_dict_ema": state},
        path,
    )


def _views(state: dict[str, Any], path: Path) -> None:
    """Tensors that are no contiguous bytes of the file."""
    torch.save({k: t.t().contiguous().t() if t.ndim == 2 else t for k, t in state.items()}, path)


def _slices(state: dict[str, Any], path: Path) -> None:
    """Tensors inside one larger storage."""
    whole = torch.cat([tensor.flatten() for tensor in state.values()])
    parts = whole.split([tensor.numel() for tensor in state.values()])
    torch.save({k: p.view(t.shape) for (k, t), p in zip(state.items(), parts, strict=True)}, path)


@pytest.mark.parametrize("save", [torch.save, _legacy, _prefixed, _timm_training, _views, _slices])
def test_every_way_to_save(save: Any, tmp_path: Path) -> None:
    case = tiny_case("vit")
    path = tmp_path / "x.pth"
    save(dict(case.model.state_dict()), path)
    source = open_source(str(path), arguments=HEADS)
    assert holds(source, case.model)
    assert source.kind == "pytorch"
    assert not source.verbatim


def assert_copied(copy: Path, original: Path) -> None:
    """Byte for byte, but for spaces that align the copy's tensors, which its header ends with."""
    header, tensors = split(copy)
    assert (len(header) + 8) % 64 == 0
    assert (header.rstrip(), tensors) == (split(original)[0].rstrip(), split(original)[1])


def split(path: Path) -> tuple[bytes, bytes]:
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    return data[8:end], data[end:]


def test_a_safetensors_file_is_copied_byte_for_byte(tmp_path: Path) -> None:
    case = tiny_case("vit")
    path = tmp_path / "anything.safetensors"
    state = {key: t.to(torch.bfloat16) for key, t in case.model.state_dict().items()}
    save_file(state, path, metadata={"format": "pt"})
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\nadapter: {dim: 4}\n")
    expand_checkpoint(
        str(path), str(plan), tmp_path / "out", options=SourceOptions(model_kwargs=HEADS)
    )
    assert_copied(tmp_path / "out/model.safetensors", path)
    own = load_file(tmp_path / "out/adapters.safetensors")
    assert {tensor.dtype for tensor in own.values()} == {torch.bfloat16}
    assert {p.dtype for p in load(tmp_path / "out").parameters()} == {torch.bfloat16}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["llama", "llama_tied", "qwen3", "gemma3"])
def test_sharded_folders_with_tokenizer(name: str, tmp_path: Path) -> None:
    case = tiny_case(name)
    folder = tmp_path / "source"
    case.model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "tokenizer.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\nadapter: {dim: 4}\n")
    out = tmp_path / "out"
    expand_checkpoint(str(folder), str(plan), out)
    for shard in shards:
        assert_copied(out / shard.name, shard)
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= {
        path.name for path in out.iterdir()
    }
    assert not (out / "modeling_evil.py").exists()
    assert verify(out, source=str(folder)).compared_tensors == len(
        dict(case.model.named_parameters())
    )
    loaded = load(out)
    if name == "llama_tied":
        assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_pickled_shards(tmp_path: Path) -> None:
    case = tiny_case("llama")
    folder = write_source(case, tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    index = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"pytorch_model-{number}.bin"
        torch.save({key: state[key] for key in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    source = open_source(str(folder))
    assert holds(source, case.model)
    assert source.kind == "pytorch"


def test_a_repeated_tied_head_and_old_buffers_are_left_out(tmp_path: Path) -> None:
    case = tiny_case("llama_tied")
    folder = write_source(case, tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    state["lm_head.weight"] = state["model.embed_tokens.weight"].clone()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    save_file(state, folder / "model.safetensors")
    source = open_source(str(folder))
    assert source.duplicates == {"lm_head.weight": "model.embed_tokens.weight"}
    assert len(source.dropped) == 1
    assert not source.verbatim
    assert holds(source, case.model)
    state["lm_head.weight"][0] += 1
    save_file(state, folder / "model.safetensors")
    with pytest.raises(ArchitectureMismatch, match="two tensors"):
        open_source(str(folder))


def test_a_folder_with_only_a_config_can_be_counted(tmp_path: Path) -> None:
    case = tiny_case("llama")
    folder = write_source(case, tmp_path / "source")
    (folder / "model.safetensors").unlink()
    assert open_source(str(folder), weights=False).tensors == {}
    drawn = open_source(str(folder), random_seed=0)
    assert drawn.kind == "random"
    again = open_source(str(folder), random_seed=0)
    other = open_source(str(folder), random_seed=1)
    key = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(drawn.tensors[key].read(), again.tensors[key].read())
    assert not torch.equal(drawn.tensors[key].read(), other.tensors[key].read())


def cache_repository(cache: Path, repository: str, files: Path) -> None:
    """The hub client's cache as it is after a download, blobs behind links."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "abc123"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("abc123")
    snapshot.mkdir(parents=True)
    (root / "blobs").mkdir()
    for path in files.iterdir():
        shutil.copy(path, root / "blobs" / path.name)
        (snapshot / path.name).symlink_to(root / "blobs" / path.name)


def test_hub_references_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deit: nn.Module
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    case = tiny_case("llama")
    cache_repository(cache, "someone/tiny", write_source(case, tmp_path / "llama"))
    source = open_source("hf:someone/tiny")
    assert holds(source, case.model)
    assert source.reference == "hf:someone/tiny"
    assert isinstance(case.model, LlamaForCausalLM)

    files = tmp_path / "deit"
    files.mkdir()
    save_file(dict(deit.state_dict()), files / "model.safetensors")
    cache_repository(cache, "timm/deit_tiny_patch16_224.fb_in1k", files)
    for name in ("deit_tiny_patch16_224", "deit_tiny_patch16_224.fb_in1k"):
        source = open_source(f"timm:{name}")
        assert holds(source, deit)
        assert source.reference == f"timm:{name}"


def test_shards_of_both_kinds_are_all_written(tmp_path: Path) -> None:
    case = tiny_case("llama")
    folder = write_source(case, tmp_path / "source")
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(state)
    save_file({key: state[key] for key in names[::2]}, folder / "a.safetensors")
    torch.save({key: state[key] for key in names[1::2]}, folder / "b.bin")
    index = {key: "b.bin" if order % 2 else "a.safetensors" for order, key in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    plan = tmp_path / "plan.yaml"
    plan.write_text("version: 1\nmapping: stack\nfactor: 2\nadapter: {dim: 4}\n")
    expand_checkpoint(folder, plan, tmp_path / "out")
    assert verify(tmp_path / "out", source=str(folder)).compared_tensors == len(names)


def test_a_block_that_norms_its_branches_refuses_gates(tmp_path: Path) -> None:
    source = open_source("timm:vit_base_patch16_rpn_224", weights=False)
    model = family("vit").build(source.architecture)
    for start in ("average", "identity"):
        plan = {"version": 1, "mapping": "stack", "factor": 2, "start": start}
        with pytest.raises(PlanError, match="start-unsupported"):
            expand_module(model, plan, family="vit")


@pytest.mark.parametrize("name", ["vit_base_patch16_18x2_224", "aimv2_large_patch14_224"])
def test_variants_that_are_built_otherwise_are_named(name: str) -> None:
    model = family("vit").build(open_source(f"timm:{name}", weights=False).architecture)
    with pytest.raises(UnknownBlockTensor, match="has no Linear"):
        expand_module(model, {"version": 1, "mapping": "stack", "factor": 2}, family="vit")


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_source(tiny_case("llama"), tmp_path / "source")
    architecture = open_source(str(folder)).architecture
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match="transformers"):
        family("llama").build(architecture)
