"""`generate` against transformers' own, from greedy to sampled, streamed or not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from scalenet_cli.bundle.read import bundle_folder
from scalenet_cli.cli.app import app
from scalenet_cli.errors import (
    ArchitectureMismatch,
    CheckpointUnreadable,
    LossNotFinite,
    OptionError,
)
from scalenet_cli.models.target import open_target
from scalenet_cli.tasks.causal_lm.data.prompts import encode_prompt
from scalenet_cli.tasks.causal_lm.data.templates import ALPACA, Template
from scalenet_cli.tasks.causal_lm.data.tokenizers import load_tokenizer
from scalenet_cli.tasks.causal_lm.generation.generate import generate
from scalenet_cli.tasks.causal_lm.generation.options import GenerateOptions
from scalenet_cli.tasks.causal_lm.generation.report import GenerateReport
from scalenet_cli.tasks.causal_lm.load_model import load_language_model
from tests.tasks.causal_lm.helpers import TEMPLATE, write_model, write_tokenizer
from tests.training.runs import slow, train
from tests.training.texts import CHAT, RECIPE, instructions, write_language_bundle, write_records
from tests.training.texts import write_tokenizer as write_words

PROMPT = "the cat sat on"
SESSION = "scalenet_cli.tasks.causal_lm.generation.session"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model", eos_token_id=None)


def trained(folder: Path, chat: str | None, rows: Any, **recipe: Any) -> Path:
    """A run of one step."""
    bundle = write_language_bundle(folder / "bundle", chat=chat)
    data = write_records(folder / "data.jsonl", rows)
    short = {**RECIPE, "template": "auto", "max_length": 64, "max_steps": 1, "eval_steps": 1}
    train(bundle, data, folder / "run", {**short, **recipe})
    return folder / "run"


def test_greedy_text_is_the_most_probable_tokens(model: Path) -> None:
    opened = load_language_model(open_target(model, weights=True))
    ids = opened.tokenizer(PROMPT).input_ids
    for _ in range(9):
        with torch.no_grad():
            ids.append(int(opened.model(torch.tensor([ids])).logits[0, -1].argmax()))
    pieces: list[str] = []
    found = generate(model, PROMPT, GenerateOptions(max_new_tokens=9), listener=pieces.append)
    new = ids[len(opened.tokenizer(PROMPT).input_ids) :]
    assert opened.tokenizer.eos_token_id not in new  # which would end the text
    assert (found.tokens, found.stopped) == (9, "length")
    assert found.text == opened.tokenizer.decode(new, skip_special_tokens=True)
    assert "".join(pieces) == found.text
    assert len(pieces) > 1
    assert (found.prompt, found.template) == (PROMPT, "none")


def test_a_seed_gives_one_text_and_leaves_the_state_alone(model: Path) -> None:
    def text(seed: int) -> str:
        how = GenerateOptions(20, temperature=2.0, top_p=0.95, top_k=30, seed=seed)
        return generate(model, PROMPT, how).text

    state = torch.get_rng_state()
    texts = [text(seed) for seed in (1, 2, 1)]
    assert texts[0] == texts[2] != texts[1]
    assert torch.equal(torch.get_rng_state(), state)


def test_the_chat_template_is_used_where_there_is_one(model: Path) -> None:
    plain = generate(model, PROMPT, GenerateOptions(3))
    write_tokenizer(model, template=TEMPLATE)

    def counted(template: Template, system: str | None = None) -> GenerateReport:
        how = GenerateOptions(3, template=template, system=system)
        return generate(model, PROMPT, how)

    auto, chat, none = counted("auto"), counted("chat"), counted("none")
    assert auto.prompt_tokens == chat.prompt_tokens > none.prompt_tokens == plain.prompt_tokens
    assert (auto.template, chat.template, none.template) == ("chat", "chat", "none")
    assert counted("auto", "a dog").prompt_tokens > auto.prompt_tokens


def test_an_end_that_the_tokenizer_adds_is_left_out(tmp_path: Path) -> None:
    tokenizer = write_words(tmp_path, ends=True)
    assert tokenizer("w5 w6").input_ids == [1, 5, 6, 2]
    assert encode_prompt(tokenizer, "w5 w6", "none") == [1, 5, 6]
    assert encode_prompt(tokenizer, "w5 </s>", "none") == [1, 5, 2]
    plain = write_words(tmp_path)
    assert encode_prompt(plain, "w5 </s>", "none") == [1, 5, 2]


def test_a_prompt_in_alpacas_words(tmp_path: Path) -> None:
    tokenizer = write_words(tmp_path, ends=True)
    text = ALPACA.format(instruction="w5 {w6}")
    assert encode_prompt(tokenizer, "w5 {w6}", "alpaca") == tokenizer(text).input_ids[:-1]
    assert text.endswith("w5 {w6}\n\n### Response:\n")


ASKED, TEXTS = instructions(20), [{"text": "w5 w6 w7"}] * 20


@pytest.mark.sample(2)
@pytest.mark.parametrize("part", ["last", slow("")])
@pytest.mark.parametrize(
    ("template", "chat", "expected"),
    [("auto", CHAT, "chat"), ("auto", None, "alpaca"), ("none", CHAT, "none"),
     ("alpaca", CHAT, "alpaca")],
)  # fmt: skip
def test_a_model_is_asked_as_it_was_trained(
    tmp_path: Path, template: Template, chat: str | None, expected: str, part: str
) -> None:
    target = trained(tmp_path, chat, ASKED, template=template) / part
    found = generate(target, "w5 w6", GenerateOptions(3))
    told = f"the prompt's template is {expected}, as in training; --template chooses another"
    assert (found.template, found.notes) == (expected, (told,))
    ids = encode_prompt(load_tokenizer(bundle_folder(target)), "w5 w6", found.template)
    assert found.prompt_tokens == len(ids)
    chosen = generate(target, "w5 w6", GenerateOptions(3, template="none"))
    assert (chosen.template, chosen.notes) == ("none", ())


@pytest.mark.parametrize(("chat", "expected"), [(CHAT, "chat"), (None, "none")])
def test_texts_have_no_template(tmp_path: Path, chat: str | None, expected: str) -> None:
    run = trained(tmp_path, chat, TEXTS)
    found = generate(run, "w5 w6", GenerateOptions(3))
    assert (found.template, found.notes) == (expected, ())


def test_instructions_without_a_template_end_with_an_empty_line(model: Path) -> None:
    opened = load_language_model(open_target(model, weights=True))
    plain, asked = (replace(opened, template=template) for template in (None, "none"))
    for one, text in ((plain, PROMPT), (asked, f"{PROMPT}\n\n")):
        with patch(f"{SESSION}.load_language_model", return_value=one):
            found = generate(model, PROMPT, GenerateOptions(3))
        assert found.prompt_tokens == len(opened.tokenizer(text).input_ids)
        assert found.prompt == PROMPT
    assert opened.tokenizer(f"{PROMPT}\n\n").input_ids != opened.tokenizer(PROMPT).input_ids


def test_a_run_with_a_tokenizer_that_lacks_its_template(tmp_path: Path) -> None:
    run = trained(tmp_path, CHAT, ASKED)
    write_words(tmp_path / "words")
    how = GenerateOptions(3, tokenizer=str(tmp_path / "words"))
    with pytest.raises(OptionError, match="the template is chat, but the tokenizer has no chat"):
        generate(run, "w5 w6", how)


def test_system_messages_that_cannot_be(model: Path) -> None:
    how = GenerateOptions(3, system="a dog")
    with pytest.raises(OptionError, match=r"--system needs a chat template, .* is none"):
        generate(model, PROMPT, how)
    with pytest.raises(OptionError, match=r"--system needs a chat template, .* is alpaca"):
        generate(model, PROMPT, GenerateOptions(3, template="alpaca", system="a dog"))
    write_tokenizer(model, template="{{ messages[-1].content }}")
    with pytest.raises(OptionError, match="the chat template leaves --system out"):
        generate(model, PROMPT, how)
    refusing = "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}a"
    write_tokenizer(model, template=refusing)
    with pytest.raises(CheckpointUnreadable, match="leave --system out"):
        generate(model, PROMPT, how)
    with pytest.raises(OptionError, match="--system holds half a character"):
        generate(model, PROMPT, GenerateOptions(3, system="caf\udce9"))


def test_a_prompt_of_half_characters(model: Path) -> None:
    for _ in range(2):
        with pytest.raises(OptionError, match="the prompt holds half a character"):
            generate(model, "caf\udce9", GenerateOptions(3))
        write_tokenizer(model, template=TEMPLATE)


def test_a_prompt_and_its_text_are_one_text(model: Path) -> None:
    """A decoder of sentencepiece's kind drops the space that a text begins with."""
    backend = Tokenizer(models.WordLevel({f"\u2581w{at}": at for at in range(64)}))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(model)
    pieces: list[str] = []
    found = generate(model, "w5 w6", GenerateOptions(4), listener=pieces.append)
    assert len(("w5 w6" + found.text).split(" ")) == 6
    assert len(pieces) == 4
    assert "".join(pieces) == found.text


def test_a_listener_that_cannot_write_is_not_the_config(model: Path) -> None:
    with pytest.raises(UnicodeEncodeError):
        generate(model, PROMPT, listener=lambda text: str("\u4e2d".encode("latin-1")))


def test_what_stdout_cannot_write_is_escaped(model: Path) -> None:
    """One word for every token, and none of them is Latin."""
    words = {f"\u4e2d{at}": at for at in range(64)}
    backend = Tokenizer(models.WordLevel(words, unk_token="\u4e2d0"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(model)
    arguments = ["generate", str(model), "--prompt", "\u4e2d5", "--max-new-tokens", "3"]
    result = CliRunner(charset="latin-1").invoke(app, arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\\u4e2d") == 3


def test_templates_that_cannot_be_used(model: Path) -> None:
    with pytest.raises(OptionError, match="the tokenizer has no chat template"):
        generate(model, PROMPT, GenerateOptions(template="chat"))
    broken = (
        "{{ messages[5].content }}", "{% for", "{{ raise_exception('no') }}", "{{ 1 / 0 }}",
        "{{ messages.x.y }}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    )  # fmt: skip
    for template in broken:
        write_tokenizer(model, template=template)
        with pytest.raises(CheckpointUnreadable, match="the chat template cannot be used"):
            generate(model, PROMPT, GenerateOptions(3))


def test_the_context_ends_the_text(model: Path) -> None:
    prompt = " ".join(["cat"] * 20)
    size = len(load_language_model(open_target(model, weights=True)).tokenizer(prompt).input_ids)
    found = generate(model, prompt, GenerateOptions(500, temperature=3.0))
    assert found.tokens <= 64 - size
    assert found.notes == (
        f"the context has room for {64 - size} new tokens, not for 500: 64 without the prompt's "
        f"{size}",
    )
    with pytest.raises(OptionError, match=r"the prompt has \d+ tokens, but .* context has 64"):
        generate(model, " ".join(["cat"] * 90))
    with pytest.raises(OptionError, match="the prompt is empty"):
        generate(model, "")


def test_an_end_is_told(model: Path) -> None:
    opened = load_language_model(open_target(model, weights=True))
    ids = opened.tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        first = int(opened.model(ids).logits[0, -1].argmax())
    write_model(model, eos_token_id=[first, 60])
    found = generate(model, PROMPT)
    assert (found.tokens, found.stopped) == (1, "end")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_answers_that_are_no_numbers(model: Path, value: float) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = value
    save_file(tensors, model / "model.safetensors")
    hiding = '{"remove_invalid_values": true, "suppress_tokens": [5], "repetition_penalty": 1.3}'
    for config in ("{}", hiding):
        (model / "generation_config.json").write_text(config)
        for how in (GenerateOptions(), GenerateOptions(temperature=1.0, top_k=5)):
            with pytest.raises(LossNotFinite, match="NaN or infinity"):
                generate(model, PROMPT, how)


def test_tokens_that_the_config_rules_out(model: Path) -> None:
    path = model / "generation_config.json"
    path.write_text(json.dumps({"suppress_tokens": list(range(63))}))
    for how in (GenerateOptions(3), GenerateOptions(3, temperature=1.0)):
        assert generate(model, PROMPT, how).tokens == 3
    path.write_text(json.dumps({"suppress_tokens": list(range(64))}))
    with pytest.raises(CheckpointUnreadable, match="it rules out every token"):
        generate(model, PROMPT, GenerateOptions(3))


@pytest.mark.filterwarnings("ignore")
def test_generation_configs_of_strangers(model: Path) -> None:
    greedy = generate(model, PROMPT, GenerateOptions(9)).text
    path = model / "generation_config.json"
    path.write_text('{"num_beams": 4, "do_sample": true, "temperature": 0.6, "top_k": 5}')
    assert generate(model, PROMPT, GenerateOptions(9)).text == greedy
    path.write_text('{"return_dict_in_generate": true, "output_scores": true}')
    assert generate(model, PROMPT, GenerateOptions(9)).text == greedy
    path.write_text('{"repetition_penalty": -1.0}')
    with pytest.raises(CheckpointUnreadable, match=r"generation_config\.json cannot be used"):
        generate(model, PROMPT, GenerateOptions(3))


def test_generation_configs_that_end_or_repeat_a_text(model: Path) -> None:
    whole = generate(model, PROMPT, GenerateOptions(9))
    path = model / "generation_config.json"
    path.write_text('{"num_return_sequences": 2, "do_sample": true}')
    for how in (GenerateOptions(9), GenerateOptions(9, temperature=1.0)):
        assert generate(model, PROMPT, how).tokens == 9
    end = whole.text[3:5]
    path.write_text(json.dumps({"stop_strings": [end]}))
    found = generate(model, PROMPT, GenerateOptions(9))
    assert (found.stopped, whole.stopped) == ("end", "length")
    assert found.tokens < 9
    assert whole.text.startswith(found.text)
    assert end in found.text


def test_a_token_that_the_model_does_not_have(model: Path) -> None:
    opened = load_language_model(open_target(model, weights=True))
    opened.tokenizer.add_tokens(["<image>"])
    opened.tokenizer.save_pretrained(model)
    with pytest.raises(ArchitectureMismatch, match="'<image>'"):
        generate(model, "the <image>")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_new_tokens", 0), ("temperature", -0.1), ("temperature", float("nan")),
        ("temperature", float("inf")), ("temperature", 1e-40), ("top_p", 0.0),
        ("top_p", 1.5), ("top_k", 0), ("top_p", 0.5), ("top_k", 5),
    ],
)  # fmt: skip
def test_options_that_cannot_be(name: str, value: float) -> None:
    with pytest.raises(OptionError, match="--"):
        GenerateOptions(**{name: value})  # type: ignore[arg-type]
