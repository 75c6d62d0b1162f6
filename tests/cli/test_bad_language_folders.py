"""Folders of language models: tokenizers, quantised weights, vocabularies, lists of a depth."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scalenet_cli.errors import ScalenetError
from scalenet_cli.families.sources import open_source
from tests.cli.helpers import DATA, Run, refuse, refuse_checkpoint, short, tensors_of, write_decoder
from tests.conftest import PLAN

UP = "model.layers.0.mlp.up_proj.weight"
SLIDING = "sliding_attention"
WORDS = {f"word{number}": number for number in range(64)}


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
@pytest.mark.parametrize("length", [0, 1, 3])
def test_layer_types_that_do_not_match_the_depth(
    run: Run, tmp_path: Path, name: str, length: int
) -> None:
    config = {"layer_types": ["full_attention"] * length}
    folder = write_decoder(tmp_path / "model", name, config=config)
    fact = f"num_hidden_layers of the config is 2, but layer_types has length {length}"
    says = (fact, f"where: {folder / 'config.json'}", "hint:  get the config.json")
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *says)


@pytest.mark.parametrize(
    ("name", "config", "says"),
    [
        ("llama", {"layer_types": [SLIDING] * 2}, "there is no sliding_window"),
        ("qwen3", {"layer_types": [SLIDING] * 2, "use_sliding_window": False},
         '"use_sliding_window": true'),
        ("llama", {"layer_types": ["full_attention", "chunked_attention"]}, "'chunked_attention'"),
    ],
    ids=short,
)  # fmt: skip
def test_layer_types_that_the_model_cannot_have(
    run: Run, tmp_path: Path, name: str, config: dict[str, Any], says: str
) -> None:
    folder = write_decoder(tmp_path / "model", name, config=config)
    told = ("layer_types of the config has", says, f"where: {folder}", "hint:  get the config.json")
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *told)


@pytest.mark.parametrize(
    ("value", "fact"),
    [("2", "num_hidden_layers of the config is '2', not"), (None, "has no num_hidden_layers")],
    ids=short,
)
def test_a_depth_that_is_none(run: Run, tmp_path: Path, value: object, fact: str) -> None:
    folder = write_decoder(tmp_path / "model", config={"num_hidden_layers": value})
    says = (fact, f"where: {folder / 'config.json'}")
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *says)


@pytest.mark.parametrize("layer_types", [["full_attention", "odd"], "full_attention", [1, 2]])
def test_layer_types_that_transformers_refuses(
    run: Run, tmp_path: Path, layer_types: object
) -> None:
    folder = write_decoder(tmp_path / "model", "qwen3", config={"layer_types": layer_types})
    says = ("transformers refuses the config", "layer_types", f"where: {folder}", "hint:  get the")
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *says)


@pytest.mark.parametrize("size", [63, 65])
def test_a_vocabulary_that_does_not_match_the_embedding(
    run: Run, tmp_path: Path, size: int
) -> None:
    folder = write_decoder(tmp_path / "model", config={"vocab_size": size})
    fact = f"vocab_size of the config is {size}, but the embedding has 64 rows"
    says = (fact, f"where: {folder / 'config.json'}", 'hint:  set "vocab_size": 64')
    refuse_checkpoint(run, tmp_path, folder, "architecture-mismatch", *says)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
         "bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization_config": "gptq"}, "gptq"),
        ({"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
    ],
    ids=short,
)  # fmt: skip
def test_a_config_of_quantised_weights(
    run: Run, tmp_path: Path, config: dict[str, Any], method: str
) -> None:
    folder = write_decoder(tmp_path / "model", config=config)
    fact = f"the model is quantised ({method})"
    says = (fact, f"where: {folder / 'config.json'}", ".dequantize()", "quantised from")
    refuse_checkpoint(run, tmp_path, folder, "unsupported-tensor", *says)


@pytest.mark.parametrize(
    ("tensor", "dtype"),
    [
        (torch.ones(64, 32, dtype=torch.int8), "I8"),
        (torch.ones(1024, 1, dtype=torch.uint8), "U8"),
        (torch.ones(64, 32).to(torch.float8_e4m3fn), "F8_E4M3"),
    ],
    ids=short,
)
def test_quantised_tensors_under_a_config_that_does_not_say_so(
    run: Run, tmp_path: Path, tensor: torch.Tensor, dtype: str
) -> None:
    folder = write_decoder(tmp_path / "model", tensors={**tensors_of("llama"), UP: tensor})
    says = (f"{UP} has the type {dtype}", f"where: {folder}", "hint:  quantised weights")
    refuse_checkpoint(run, tmp_path, folder, "unsupported-tensor", *says)


def _gguf(path: Path) -> Path:
    path.write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    return path


def test_a_gguf_file(run: Run, tmp_path: Path) -> None:
    path = _gguf(tmp_path / "model-Q4_0.gguf")
    says = ("a GGUF file", f"where: {path}", "gguf_file='model-Q4_0.gguf'", "save_pretrained")
    refuse_checkpoint(run, tmp_path, path, "unsupported-tensor", *says)


@pytest.mark.parametrize("left", [(), ("config.json",)], ids=short)
def test_a_folder_with_nothing_but_a_gguf_file(
    run: Run, tmp_path: Path, left: tuple[str, ...]
) -> None:
    folder = write_decoder(tmp_path / "model")
    for path in set(folder.iterdir()) - {folder / name for name in left}:
        path.unlink()
    path, plan = _gguf(folder / "model-Q4_0.gguf"), tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    says = ("a GGUF file", f"where: {path}", "gguf_file='model-Q4_0.gguf'")
    command = ("expand", folder, "--plan", plan, "-o", tmp_path / "out")
    refuse(run, tmp_path, *command, status=DATA, code="unsupported-tensor", says=says)


def test_a_model_type_that_is_not_known(run: Run, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "model", config={"model_type": "gpt_bigcode"})
    says = ("'gpt_bigcode'", "config.json", "hint:  supported model types: llama, mistral, qwen2")
    refuse_checkpoint(run, tmp_path, folder, "unknown-architecture", *says)


def _nothing(folder: Path) -> None:
    pass


def _too_many_words(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {**WORDS, "more": 64}}}))


def _added_tokens(folder: Path) -> None:
    added = [{"id": 64, "content": "<pad>"}]
    described = {"model": {"vocab": list(WORDS.items())}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(described))


def _added_to_settings(folder: Path) -> None:
    (folder / "vocab.json").write_text(json.dumps(WORDS))
    settings = {"added_tokens_decoder": {"64": {"content": "<pad>"}}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _pieces(number: int) -> bytes:
    """A sentencepiece model, as far as pieces are concerned, and a trainer's settings."""
    return b"\x0a\x03\x0a\x01a" * number + b"\x12\x02\x08\x01"


def _many_pieces(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(_pieces(65))
    (folder / "tokenizer_config.json").write_text("{}")


def _lone_pieces(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(_pieces(64))


def _cut_pieces(folder: Path) -> None:
    (folder / "tokenizer.model").write_bytes(_pieces(64)[:-1])


def _no_pieces(folder: Path) -> None:
    (folder / "tokenizer.model").write_text("version https://git-lfs.github.com/spec/v1")


def _no_json(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1")


def _no_object(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": []}')


def _named_templates(folder: Path) -> None:
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": WORDS}}))
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_named_templates, "only the default chat template comes along"),
        (_nothing, "the folder has no tokenizer, so the bundle has none"),
        (_too_many_words, "ids up to 64, but the embedding has 64 rows"),
        (_added_tokens, "ids up to 64, but the embedding has 64 rows"),
        (_added_to_settings, "ids up to 64, but the embedding has 64 rows"),
        (_many_pieces, "ids up to 64, but the embedding has 64 rows"),
        (_lone_pieces, "tokenizer.model has no tokenizer_config.json beside it"),
        (_cut_pieces, "the tokenizer cannot be read: "),
        (_no_pieces, "the tokenizer cannot be read: "),
        (_no_json, "the tokenizer cannot be read: "),
        (_no_object, "the tokenizer cannot be read: "),
    ],
    ids=short,
)
def test_an_odd_tokenizer_is_noted(
    tmp_path: Path, change: Callable[[Path], None], says: str
) -> None:
    folder = write_decoder(tmp_path / "model")
    change(folder)
    (note,) = open_source(str(folder)).notes
    assert says in note


def test_notes_are_told_and_nothing_is_stopped(run: Run, tmp_path: Path) -> None:
    folder = write_decoder(tmp_path / "model")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    command = ("expand", folder, "--plan", plan, "-o", tmp_path / "out")
    dry, real = run(*command, "--dry-run"), run(*command)
    assert (dry.exit_code, real.exit_code) == (0, 0)
    assert dry.stderr == real.stderr
    assert real.stderr.startswith("note: the folder has no tokenizer")
    assert (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("name", ["tokenizer\n.json", "tokenizer\\.txt", f"tokenizer{'x' * 200}"])
def test_a_file_that_no_manifest_names_does_not_come_along(
    run: Run, tmp_path: Path, name: str
) -> None:
    folder = write_decoder(tmp_path / "model")
    (folder / name).write_text("{}")
    (tmp_path / "plan.yaml").write_text(PLAN)
    out = tmp_path / "out"
    assert run("expand", folder, "--plan", tmp_path / "plan.yaml", "-o", out).exit_code == 0
    assert not (out / name).exists()
    assert run("verify", out).exit_code == 0


@pytest.mark.parametrize("size", [63, 64])
def test_a_tokenizer_that_fits_is_not_worth_a_note(tmp_path: Path, size: int) -> None:
    folder = write_decoder(tmp_path / "model")
    vocabulary = dict(list(WORDS.items())[:size])
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    (folder / "tokenizer.model").write_bytes(_pieces(64))
    assert open_source(str(folder)).notes == ()


def test_a_python_caller_gets_the_same_refusal(tmp_path: Path) -> None:
    with pytest.raises(ScalenetError, match="a GGUF file"):
        open_source(str(_gguf(tmp_path / "m.bin")))
