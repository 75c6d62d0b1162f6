"""Chat templates: what they write, what is learned of it, and on which day."""

from pathlib import Path
from typing import Any, Final

import pytest

from scalenet_cli.tasks.causal_lm.data.chat import TemplateRefused, render_chat
from scalenet_cli.tasks.causal_lm.data.prompts import encode_prompt
from tests.tasks.causal_lm.test_sequences import prepared, words
from tests.training.texts import CHAT, write_tokenizer

TURNS: Final = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6 w7"}]
# As Llama 3.2's: the day stands in front, unless the caller names one.
DATED: Final = (
    "{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{ date_string }} " + CHAT
)
# As Qwen3's: only the last answer gets a block of thoughts.
THINKING: Final = CHAT.replace(
    "{{ m['content'] }}",
    "{% if loop.last and m['role'] == 'assistant' %}w8 w9 {% endif %}{{ m['content'] }}",
)


def test_the_day_of_training_is_fixed(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=DATED)
    today = tokenizer.apply_chat_template(TURNS, tokenize=False)
    fixed = render_chat(tokenizer, TURNS, fixed_date=True)
    assert render_chat(tokenizer, TURNS) == today != fixed
    assert fixed == tokenizer.apply_chat_template(TURNS, tokenize=False, date_string="26 Jul 2024")
    backend = tokenizer.backend_tokenizer
    backend.add_tokens(["26", "Jul", "2024"])
    found = prepared(tokenizer, {"messages": TURNS})
    assert tokenizer.decode(found.tokens[:3]) == "26 Jul 2024"


@pytest.mark.parametrize("begin", ["", "\n", "\n\n  ", "  {% set x = 1 %}\n", "{#- a -#}\n\n"])
def test_a_fixed_day_changes_nothing_else(tmp_path: Path, begin: str) -> None:
    template = begin + "{% if strftime_now is defined %}\n  w5{% endif %}\n" + CHAT
    tokenizer = write_tokenizer(tmp_path, chat=template)
    whole = tokenizer.apply_chat_template(TURNS, tokenize=False)
    assert render_chat(tokenizer, TURNS, fixed_date=True) == whole


@pytest.mark.parametrize(
    ("form", "written"),
    [
        ("%Y-%m-%d", "2024-07-26"), ("%B %d, %Y", "July 26, 2024"),
        ("%A %-d %b %H:%M", "Friday 26 Jul 00:00"),
    ],
)  # fmt: skip
def test_dates_of_other_forms(tmp_path: Path, form: str, written: str) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=f"{{{{ strftime_now('{form}') }}}}")
    assert render_chat(tokenizer, TURNS, fixed_date=True) == written


@pytest.mark.parametrize("chat", [CHAT, DATED, "<s>" + THINKING])
def test_a_prompt_is_what_transformers_makes_of_it(tmp_path: Path, chat: str) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=chat)
    messages = [{"role": "user", "content": "w5 <s> w6"}]
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert encode_prompt(tokenizer, "w5 <s> w6", "chat") == whole["input_ids"]
    messages.insert(0, {"role": "system", "content": "w7"})
    whole = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
    assert encode_prompt(tokenizer, "w5 <s> w6", "chat", system="w7") == whole["input_ids"]


def test_a_conversation_that_an_answer_opens(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=CHAT)
    opened = {"messages": [{"role": "assistant", "content": "w9 w10"}, *TURNS]}
    found = prepared(tokenizer, opened)
    assert words(found)[1] == ["w9", "w10", "</s>", "w6", "w7", "</s>"]
    # The role, and what else stands before it, is not taken for the content.
    named = {"messages": [{"role": "assistant", "content": "w4"}]}
    assert words(prepared(tokenizer, named))[1] == ["w4", "</s>"]


def test_answers_that_are_written_otherwise_are_counted(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=THINKING)
    long: dict[str, Any] = {"messages": [*TURNS, *TURNS, *TURNS]}
    found = prepared(tokenizer, long, {"messages": TURNS})
    assert words(found)[1] == words(found, 1)[1] == ["w8", "w9", "w6", "w7", "</s>"]
    assert (found.num_changed, found.num_dropped) == (2, 0)
    asked = {"messages": [*TURNS, TURNS[0]]}
    found = prepared(tokenizer, long, asked)
    assert (found.num_changed, found.num_dropped) == (3, 1)


def test_a_refusal_says_why(tmp_path: Path) -> None:
    for template, says in (("{{ 1 / 0 }}", "division"), ("{{ messages.x.y }}", "no attribute 'x'")):
        tokenizer = write_tokenizer(tmp_path, chat=template)
        with pytest.raises(TemplateRefused, match=says):
            render_chat(tokenizer, TURNS)
