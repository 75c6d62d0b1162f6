"""Hugging Face and timm folders whose parts are missing, damaged, or disagree."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scalenet_cli import expand_checkpoint, load
from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    refuse,
    refuse_checkpoint,
    refused_or_whole,
    short,
    tensors_of,
    write_decoder,
)
from tests.conftest import PLAN

HEAD = "lm_head.weight"


def test_a_decoder_file_without_its_config(run: Run, tmp_path: Path) -> None:
    path = write_decoder(tmp_path / "llama") / "model.safetensors"
    says = ("no config.json", f"where: {path}", "hint:  give the folder")
    refuse_checkpoint(run, tmp_path, path, "unknown-architecture", *says)


def test_options_of_timm_are_not_for_decoders(run: Run, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama")
    for options in (("--arch", "llama"), ("--model-kwargs", "num_heads=2")):
        refuse_checkpoint(
            run, tmp_path, folder, "option", "config.json", options=options, status=USAGE
        )


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_the_place_of_a_file(run: Run, tmp_path: Path, name: str) -> None:
    folder = write_decoder(tmp_path / "llama")
    (folder / name).unlink()
    (folder / name).mkdir()
    result = run("inspect", folder)
    assert result.exit_code == DATA, repr(result.exception)
    assert "error[checkpoint-" in result.stderr
    assert str(folder) in result.stderr


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("config", "code", "says"),
    [
        ({"model_type": "mamba"}, "unknown-architecture", "'mamba'"),
        ({"model_type": None}, "unknown-architecture", "None"),
        ({"model_type": ["llama"]}, "unknown-architecture", "['llama']"),
        ({"model_type": "two\nlines"}, "unknown-architecture", "hint:"),
        ({"quantization_config": {"quant_method": "gptq"}}, "unsupported-tensor", "dequantise"),
        ({"num_hidden_layers": 3}, "architecture-mismatch", "model.layers.2"),
        ({"num_hidden_layers": 1}, "architecture-mismatch", "model.layers.1"),
        ({"hidden_size": 64}, "architecture-mismatch", "(64, 64)"),
        ({"intermediate_size": 96}, "architecture-mismatch", "(96, 32)"),
        ({"vocab_size": 65}, "architecture-mismatch", "is 65, but the embedding has 64 rows"),
        ({"head_dim": 16}, "architecture-mismatch", "(64, 32)"),
        ({"num_key_value_heads": 4}, "architecture-mismatch", "k_proj"),
        ({"model_type": "qwen3"}, "architecture-mismatch", "q_norm"),
        ({"attention_bias": True}, "architecture-mismatch", "bias"),
    ],
    ids=short,
)
def test_a_config_that_does_not_describe_the_weights(
    run: Run, tmp_path: Path, config: dict[str, Any], code: str, says: str
) -> None:
    folder = write_decoder(tmp_path / "llama", config=config)
    refuse_checkpoint(run, tmp_path, folder, code, says, "hint:")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 0},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2.5},
        {"num_hidden_layers": "2"},
        {"num_hidden_layers": 1_000_000},
        {"hidden_size": 0},
        {"hidden_size": "32"},
        {"hidden_size": 10**9},
        {"hidden_size": 10**30},
        {"vocab_size": -64},
        {"vocab_size": 10**12},
        {"num_attention_heads": 0},
        {"num_attention_heads": -4},
        {"num_key_value_heads": 0},
        {"num_key_value_heads": 3},
        {"head_dim": 0},
        {"head_dim": "8"},
        {"hidden_act": "nonsense"},
        {"hidden_act": ["silu"]},
        {"rms_norm_eps": "small"},
        {"initializer_range": "wide"},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": "64"},
        {"rope_parameters": {"rope_type": "nonsense", "rope_theta": 1.0}},
        {"rope_parameters": {"rope_type": "linear"}},
        {"rope_parameters": [1]},
        {"rope_scaling": {"type": "nonsense"}},
        {"dtype": "float99"},
        {"dtype": 16},
        {"torch_dtype": "os.system"},
        {"tie_word_embeddings": "maybe"},
        {"pad_token_id": 10**9},
        {"attn_implementation": "flash_attention_2"},
        {"_attn_implementation": "stranger/kernel"},
        {"experts_implementation": "nonsense"},
        {"quantization_config": "gptq"},
        {"architectures": 3},
        {"id2label": 3},
        {"num_labels": "x"},
        {"return_dict": "no"},
        {"output_attentions": "yes"},
        {"per_layer_config": {"0": {}}},
        {"_name_or_path": 3},
        {"transformers_version": ["x"]},
        {"auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}},
        {"model": 1, "config": 2, "self": 3},
        {"__class__": "int"},
        {"to_dict": "x", "save_pretrained": 1},
    ],
    ids=short,
)
def test_a_config_with_an_odd_value_is_refused_or_gives_a_bundle_that_opens(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    folder = write_decoder(tmp_path / "llama", config=config)
    refused_or_whole(folder, tmp_path)


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_config_cannot_name_code_to_be_fetched(tmp_path: Path, key: str) -> None:
    # transformers takes OWNER/NAME for a kernel on the hub, and would run it.
    folder = write_decoder(tmp_path / "llama", config={key: "stranger/kernel"})
    (tmp_path / "plan.yaml").write_text(PLAN)
    expand_checkpoint(str(folder), str(tmp_path / "plan.yaml"), tmp_path / "out")
    assert load(tmp_path / "out").config._attn_implementation in ("eager", "sdpa")
    assert "stranger" not in (tmp_path / "out" / "manifest.json").read_text()


@pytest.mark.parametrize(
    "config",
    [
        {"layer_types": ["full_attention"]},
        {"layer_types": ["full_attention"] * 9},
        {"layer_types": ["full_attention", "nonsense"]},
        {"layer_types": "full_attention"},
        {"layer_types": [1, 2]},
        {"layer_types": []},
        {"sliding_window": 0},
        {"sliding_window": "wide"},
        {"sliding_window": None},
    ],
    ids=short,
)
def test_odd_layer_types_are_refused_or_give_a_bundle_that_opens(
    tmp_path: Path, config: dict[str, Any]
) -> None:
    refused_or_whole(write_decoder(tmp_path / "qwen3", "qwen3", config=config), tmp_path)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("generation_config.json", b"not json"),
        ("generation_config.json", b"[]"),
        ("generation_config.json", b'{"max_new_tokens": "many", "num_beams": -3}'),
        ("generation_config.json", b"\xff\xfe"),
        ("tokenizer.json", b"not json"),
        ("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}'),
    ],
    ids=short,
)
def test_an_odd_file_beside_the_weights_is_refused_or_gives_a_bundle_that_opens(
    tmp_path: Path, name: str, content: bytes
) -> None:
    folder = write_decoder(tmp_path / "llama")
    (folder / name).write_bytes(content)
    refused_or_whole(folder, tmp_path)


def test_a_broken_generation_config_is_named_where_it_lies(run: Run, tmp_path: Path) -> None:
    path = write_decoder(tmp_path / "llama") / "generation_config.json"
    path.write_text("not json")
    (tmp_path / "plan.yaml").write_text(PLAN)
    command = ("expand", path.parent, "--plan", tmp_path / "plan.yaml", "-o", tmp_path / "out")
    says = ("generation_config.json cannot be used", f"where: {path}\n", "expand again")
    refuse(run, tmp_path, *command, status=DATA, code="checkpoint-unreadable", says=says)


def test_a_tied_config_with_two_different_tensors(run: Run, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama", config={"tie_word_embeddings": True})
    says = ("ties the head to the embedding", f"where: {folder}", '"tie_word_embeddings": false')
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *says)


def test_an_untied_config_without_a_head(run: Run, tmp_path: Path) -> None:
    tensors = {key: tensor for key, tensor in tensors_of("llama").items() if key != HEAD}
    folder = write_decoder(tmp_path / "llama", tensors=tensors)
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", f"such as {HEAD}", "hint:")


@pytest.mark.parametrize(
    ("key", "tensor", "code", "says"),
    [
        ("model.norm.weight", torch.ones(33), "architecture-mismatch",
         "is (33), but the architecture has (32)"),
        ("model.layers.0.mlp.extra", torch.ones(3), "architecture-mismatch",
         "1 tensors are unexpected, such as model.layers.0.mlp.extra"),
        ("model.norm.weight", torch.ones(32, dtype=torch.int8), "unsupported-tensor", "I8"),
        ("model.layers.0.self_attn.q_proj.qweight", torch.ones(4, 4, dtype=torch.int32),
         "unsupported-tensor", "quantised"),
    ],
    ids=short,
)  # fmt: skip
def test_weights_that_the_config_does_not_explain(
    run: Run, tmp_path: Path, key: str, tensor: torch.Tensor, code: str, says: str
) -> None:
    folder = write_decoder(tmp_path / "llama", tensors={**tensors_of("llama"), key: tensor})
    refuse_checkpoint(run, tmp_path, folder, code, says, str(folder), "hint:")


def test_a_folder_without_weights(run: Run, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "llama")
    (folder / "model.safetensors").unlink()
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    result = run("expand", folder, "--plan", plan, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (DATA, "")
    assert "error[checkpoint-incomplete]: the folder has no weights" in result.stderr
    assert "model.safetensors.index.json" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"architecture": "resnet50"}, "unknown-architecture"),
        ({"architecture": 3}, "unknown-architecture"),
        ({"architecture": ["vit_tiny_patch16_224"]}, "unknown-architecture"),
        ({"architecture": "vit_tiny_patch16_224"}, "architecture-mismatch"),
        ({"model_args": 3}, "checkpoint-unreadable"),
        ({"pretrained_cfg": [1]}, "checkpoint-unreadable"),
        ({"model_args": {"checkpoint_path": "/etc/passwd"}}, "architecture-mismatch"),
        ({"model_args": {"pretrained": True}}, "architecture-mismatch"),
        ({"model_args": {"num_headz": 2}}, "architecture-mismatch"),
        ({"num_classes": "five"}, "architecture-mismatch"),
        ({"num_classes": 10**12}, "architecture-mismatch"),
    ],
    ids=short,
)
def test_a_timm_folder_whose_config_is_wrong(
    run: Run, tmp_path: Path, config: dict[str, Any], code: str
) -> None:
    sizes = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}
    right = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "model_args": sizes}
    folder = tmp_path / "vit"
    folder.mkdir()
    content = {**right, **config}
    if config == {"architecture": "vit_tiny_patch16_224"}:
        content["model_args"] = {}
    (folder / "config.json").write_text(json.dumps(content))
    save_file(dict(tensors_of("vit")), folder / "model.safetensors")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    result = run("expand", folder, "--plan", plan, "-o", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert f"error[{code}]" in result.stderr
    assert str(folder) in result.stderr
    assert not (tmp_path / "out").exists()
