"""Scaled decoders as transformers uses them: cache, windows, padding, tokenizers, odd folders."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, TokenizersBackend
from typer.testing import Result

from scalenet_cli import expand_checkpoint, expand_module, load, verify
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.build_decoder import create_decoder
from tests.cli.helpers import tensors_of, write_decoder
from tests.laws.building import make_model, randomise_instances
from tests.models import ARCHITECTURES, TinyCase

PLAN = "version: 1\nmapping: interpolate\nfactor: 2\nstart: identity\nadapter: {dim: 4}\n"
WINDOW = 5
MIXED = {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "sliding_window": WINDOW,
    "use_sliding_window": True,
}
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"num_hidden_layers": 3, "sliding_window": WINDOW},
    "qwen2": MIXED,
    "qwen3": MIXED,
    "gemma2": {**MIXED, "query_pre_attn_scalar": 8},
    "gemma3_text": {**MIXED, "query_pre_attn_scalar": 8},
}
NEW_TOKENS = 12


def decoder(kind: str, settings: dict[str, Any]) -> nn.Module:
    """A random decoder, scaled to one and a half times its depth, with adapters that do work."""
    arguments = {**ARCHITECTURES["llama"].arguments, "model_type": kind, **settings}
    torch.manual_seed(0)
    base = create_decoder(Architecture("llama", kind, arguments))
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    plan = {"version": 1, "mapping": "interpolate", "factor": 2, "adapter": {"dim": 4}}
    model = expand_module(base, plan, family="llama")
    randomise_instances(model, base)
    model.generation_config.eos_token_id = None
    return model


def generate(model: nn.Module, tokens: torch.Tensor, **options: Any) -> Any:
    mask = (tokens != 0).long()
    torch.manual_seed(3)
    return model.generate(
        tokens,
        attention_mask=mask,
        max_new_tokens=NEW_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
        **options,
    )


@pytest.mark.sample(3)
@pytest.mark.parametrize("kind", SLIDING)
def test_windows_shorter_than_the_text(kind: str) -> None:
    """With and without cache, of a padded batch as of each text alone; the window does matter."""
    model = decoder(kind, SLIDING[kind])
    torch.manual_seed(1)
    tokens = torch.randint(3, 64, (2, 3 * WINDOW))
    tokens[0, :4] = 0
    cached, plain = (generate(model, tokens, do_sample=False, use_cache=c) for c in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)
    for one, other in zip(cached.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=2e-5)
    alone = generate(model, tokens[:1, 4:], do_sample=False)
    assert torch.equal(alone.sequences[0], cached.sequences[0, 4:])
    wide = decoder(kind, {**SLIDING[kind], "sliding_window": 60})
    assert not torch.equal(wide(tokens).logits[:, -1], model(tokens).logits[:, -1])


@pytest.mark.parametrize("kind", SLIDING)
def test_a_window_that_the_file_leaves_out_is_the_default(kind: str) -> None:
    settings = {name: value for name, value in SLIDING[kind].items() if name != "sliding_window"}
    arguments = {**ARCHITECTURES["llama"].arguments, "model_type": kind, **settings}
    model: Any = create_decoder(Architecture("llama", kind, arguments))
    assert model.config.sliding_window == 4096


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
def test_sampling_with_a_cache_equals_sampling_without(kind: str) -> None:
    model = decoder(kind, SLIDING.get(kind, {}))
    tokens = torch.randint(3, 64, (2, 7))
    sampled = [
        generate(model, tokens, do_sample=True, use_cache=c).sequences for c in (True, False)
    ]
    assert torch.equal(*sampled)


@pytest.mark.parametrize("case", ["llama"], indirect=True)
def test_beams_and_a_static_cache(case: TinyCase) -> None:
    model = make_model(case)
    model.generation_config.eos_token_id = None
    tokens = case.inputs["input_ids"]
    expected = generate(model, tokens, do_sample=False, use_cache=False).sequences
    static = generate(model, tokens, do_sample=False, cache_implementation="static")
    assert torch.equal(static.sequences, expected)
    beams = [
        generate(model, tokens, do_sample=False, num_beams=2, use_cache=c) for c in (False, True)
    ]
    assert torch.equal(beams[0].sequences, beams[1].sequences)


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_layer_types_that_the_layers_ignore_still_fill_the_cache(kind: str) -> None:
    """Written by other tools; transformers makes one cache slot per entry."""
    model = decoder(kind, {"layer_types": ["full_attention"] * 2, "sliding_window": None})
    assert len(model.config.layer_types) == 4
    tokens = torch.randint(3, 64, (2, 7))
    cached, plain = (generate(model, tokens, do_sample=False, use_cache=c) for c in (True, False))
    assert torch.equal(cached.sequences, plain.sequences)


def write_tokenizer(folder: Path) -> None:
    words = ["<pad>", "<s>", "</s>", *(f"word{number}" for number in range(61))]
    tokenizer = Tokenizer(WordLevel({word: id for id, word in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = Whitespace()
    whole = TokenizersBackend(tokenizer_object=tokenizer, eos_token="</s>", pad_token="<pad>")
    whole.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}word7"
    whole.save_pretrained(folder)


def test_a_bundle_has_the_sources_tokenizer(
    tmp_path: Path, plan_file: Callable[[str], Path], run: Callable[..., Result]
) -> None:
    source = write_decoder(tmp_path / "llama")
    write_tokenizer(source)
    result = run("expand", source, "--plan", plan_file(PLAN), "-o", tmp_path / "out")
    assert result.stderr == ""
    messages = [{"role": "user", "content": "word1 word60"}]
    theirs, ours = (AutoTokenizer.from_pretrained(f) for f in (source, tmp_path / "out"))
    assert ours("word3 word4").input_ids == theirs("word3 word4").input_ids == [6, 7]
    asked, expected = (t.apply_chat_template(messages, return_tensors="pt") for t in (ours, theirs))
    assert asked["input_ids"].tolist() == expected["input_ids"].tolist() == [[4, 63, 10]]
    base = AutoModelForCausalLM.from_pretrained(source)
    answers = [
        model.generate(**asked, max_new_tokens=5, do_sample=False)
        for model in (load(tmp_path / "out"), base)
    ]
    assert torch.equal(*answers)


def test_random_weights_come_with_the_tokenizer_too(
    tmp_path: Path, plan_file: Callable[[str], Path], run: Callable[..., Result]
) -> None:
    source = write_decoder(tmp_path / "llama")
    write_tokenizer(source)
    (source / "model.safetensors").unlink()
    command = ("expand", source, "--plan", plan_file(PLAN), "-o", tmp_path / "out")
    assert run(*command, "--random-weights").exit_code == 0
    assert (tmp_path / "out" / "tokenizer.json").exists()


def test_a_tied_pair_stored_under_the_heads_name(
    tmp_path: Path, plan_file: Callable[[str], Path]
) -> None:
    """safetensors' own save_model keeps the alphabetically first name."""
    tensors = dict(tensors_of("llama_tied"))
    tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
    source = write_decoder(tmp_path / "llama", "llama_tied", tensors=tensors)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    expand_checkpoint(source, plan_file(PLAN), tmp_path / "out")
    assert verify(tmp_path / "out", source=str(source)).compared_tensors == len(tensors)
    model = load(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    base = AutoModelForCausalLM.from_pretrained(source).eval()
    tokens = {"input_ids": torch.randint(3, 64, (2, 9)), "use_cache": False}
    with torch.no_grad():
        assert torch.equal(model(**tokens).logits, base(**tokens).logits)
