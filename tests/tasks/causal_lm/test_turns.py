"""Conversations in the forms that data have: what a template is shown, and what is learned."""

import json
from pathlib import Path
from typing import Any, Final

import pytest

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.tasks.causal_lm.data.conversations import conversation
from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker
from scalenet_cli.tasks.causal_lm.data.record import Record
from scalenet_cli.tasks.causal_lm.data.records import read_records
from tests.tasks.causal_lm.test_sequences import prepared, words
from tests.training.texts import CHAT, write_tokenizer

TURNS: Final = [{"role": "user", "content": "w5"}, {"role": "assistant", "content": "w6 w7"}]
# Writes calls, thoughts and tools where they are, as the templates of such models do.
CALLING: Final = (
    "{% if tools %}{% for t in tools %}w10 {{ t['name'] }} {% endfor %}{% endif %}"
    "{% for m in messages %}w4 {{ m['role'] }} "
    "{% if m.reasoning_content is defined %}w20 {{ m.reasoning_content }} w21 {% endif %}"
    "{% if m.content %}{{ m.content }} {% endif %}"
    "{% for c in m.tool_calls or [] %}w11 {{ c['name'] }} {% endfor %}</s> {% endfor %}"
    "{% if add_generation_prompt %}w4 assistant {% endif %}"
)
# As DeepSeek-R1's: the prompt for an answer opens its thoughts, of which the history has nothing.
OPENING: Final = CHAT.replace("w4 assistant", "w4 assistant w22")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    return write_tokenizer(tmp_path, chat=CALLING)


def learned(tokenizer: Any, **fields: Any) -> list[str]:
    return words(prepared(tokenizer, fields))[1]


@pytest.mark.parametrize(
    "fields",
    [
        {"conversations": [{"from": "human", "value": "w5"}, {"from": "gpt", "value": "w6 w7"}]},
        {"conversations": TURNS},
        {"prompt": TURNS[:1], "completion": TURNS[1:]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "w5"}]}, TURNS[1]]},
        {"messages": [{**turn, "tool_calls": None, "weight": None} for turn in TURNS]},
        {"messages": [TURNS[0], {**TURNS[1], "weight": 1}], "prompt": "w5"},
    ],
    ids=["sharegpt", "roles", "prompt", "parts", "table", "openai"],
)
def test_forms_of_one_conversation(tokenizer: Any, fields: dict[str, Any]) -> None:
    assert words(prepared(tokenizer, fields)) == words(prepared(tokenizer, {"messages": TURNS}))


def test_parts_of_text_are_lines() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    found = conversation(
        Record({"messages": [{"role": "user", "content": parts}]}, "r"), "messages"
    )
    assert found.turns[0]["content"] == "a\nb"


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}])
def test_a_turn_that_is_not_to_be_learned(tokenizer: Any, mark: dict[str, Any]) -> None:
    first = [TURNS[0], {**TURNS[1], **mark}]
    assert learned(tokenizer, messages=[*first, TURNS[0], TURNS[1]]) == ["w6", "w7", "</s>"]
    both = prepared(tokenizer, {"messages": first}, {"messages": TURNS})
    assert (len(both), both.num_dropped) == (1, 1)


def test_only_the_completion_is_learned(tokenizer: Any) -> None:
    found = learned(tokenizer, prompt=[*TURNS, TURNS[0]], completion=TURNS[1:])
    assert found == ["w6", "w7", "</s>"]


def test_calls_thoughts_and_tools_reach_the_template(tokenizer: Any) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"name": "w30"}]}
    turns = [
        TURNS[0], call, {"role": "tool", "content": "w31", "tool_call_id": "1"},
        {**TURNS[1], "reasoning_content": "w32"},
    ]  # fmt: skip
    tools = [{"name": "w33"}]
    found, target = words(prepared(tokenizer, {"messages": turns, "tools": tools}))
    assert found[:2] == ["w10", "w33"]
    assert target == ["w11", "w30", "</s>", "w20", "w32", "w21", "w6", "w7", "</s>"]
    as_json = prepared(tokenizer, {"messages": turns, "tools": json.dumps(tools)})
    assert words(as_json) == (found, target)


def test_a_prompt_that_opens_thoughts(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path, chat=OPENING)
    found = learned(tokenizer, messages=[*TURNS, *TURNS])
    assert found == ["w6", "w7", "</s>"] * 2
    assert learned(tokenizer, instruction="w5", output="w8") == ["w8", "</s>"]


def test_answers_that_are_all_written_otherwise(tmp_path: Path) -> None:
    template = CHAT.replace(
        "{{ m['content'] }}", "{% if loop.last %}{{ m['content'] }}{% else %}w9{% endif %}"
    )
    tokenizer = write_tokenizer(tmp_path, chat=template)
    with pytest.raises(DataUnreadable, match="of 1 the template writes every answer otherwise"):
        prepared(tokenizer, {"messages": [*TURNS, TURNS[0]]})


def test_rows_of_a_table_may_mix_forms(tokenizer: Any, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    rows = [
        {"messages": TURNS, "instruction": None, "output": None, "text": None},
        {"messages": None, "instruction": "w5", "output": "w6 w7", "text": None},
        {"messages": None, "instruction": None, "output": None, "text": "w5"},
    ]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    found = read_records(str(tmp_path / "saved"))
    made = prepared(tokenizer, *(dict(record.fields) for record in found))
    assert [words(made, at)[1] for at in range(3)] == [["w6", "w7", "</s>"]] * 2 + [["w5", "</s>"]]


def test_calls_in_a_table_are_those_of_lines(tmp_path: Path) -> None:
    template = CALLING.replace("c['name'] }}", "c['arguments'] | tojson }} {{ tools | tojson }}")
    tokenizer = write_tokenizer(tmp_path / "words", chat=template)
    rows = []
    for arguments in ({"city": "w6"}, {"a": 1, "b": {"c": [2]}}):
        call = {"role": "assistant", "tool_calls": [{"name": "w7", "arguments": arguments}]}
        tool = {"name": "w8", "properties": {name: {"type": "w9"} for name in arguments}}
        rows.append({"messages": [TURNS[0], call], "tools": [tool]})
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    maker = ExampleMaker(tokenizer, "chat", train_on_prompt=False)
    made = []
    for name in ("rows.jsonl", "rows.parquet"):
        records = read_records(str(tmp_path / name))
        made.append([maker.make(record) for record in records])
    texts = [[example and example.text for example in examples] for examples in made]
    assert texts[0] == texts[1]
    assert '"city": "w6"' in str(texts[0][0])


@pytest.mark.parametrize("extra", [{"language": "w9"}, {"name": "w9"}])
def test_an_empty_answer_is_not_learned(tokenizer: Any, extra: dict[str, Any]) -> None:
    turns = [TURNS[0], {"role": "assistant", "content": "", **extra}]
    found = prepared(tokenizer, {"messages": turns}, {"messages": TURNS})
    assert (len(found), found.num_dropped) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"content": "w6", "reasoning_content": "w7"}, ["w20", "w7", "w21", "w6", "</s>"]),
        ({"content": "w6", "tool_calls": [{"name": "w8"}]}, ["w6", "w11", "w8", "</s>"]),
        ({"content": None, "tool_calls": [{"name": "w8"}]}, ["w11", "w8", "</s>"]),
    ],
)
def test_thoughts_and_calls_are_learned_where_a_prompt_opens_thoughts(
    tmp_path: Path, answer: dict[str, Any], expected: list[str]
) -> None:
    opening = CALLING.replace("w4 assistant", "w4 assistant w22")
    tokenizer = write_tokenizer(tmp_path, chat=opening)
    turns = [TURNS[0], {"role": "assistant", **answer}]
    assert learned(tokenizer, messages=turns) == expected


def test_a_text_with_half_of_another_form_is_a_text(tokenizer: Any) -> None:
    assert learned(tokenizer, text="w5 w6", prompt="w7") == ["w5", "w6", "</s>"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"messages": [TURNS[0], {"role": "Assistant", "content": "w6"}]}, "no turn of messages"),
        ({"messages": ["w5"]}, r"messages\[0\] is no object"),
        ({"messages": [TURNS[0], {"role": "assistant"}]}, r"messages\[1\] has no role and content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
            "a part that is no text",
        ),
        ({"messages": [{**TURNS[0], "weight": 0.5}]}, "weight is neither 0 nor 1"),
        ({"conversations": [{"from": "nobody", "value": "w5"}]}, "no role and content"),
        ({"messages": TURNS, "tools": "{"}, "tools is no list"),
        ({"messages": TURNS, "tools": 5}, "tools is no list"),
        ({"prompt": TURNS, "completion": "w5"}, "completion is no list of turns"),
        ({"prompt": TURNS, "chosen": TURNS}, "completion is no list of turns"),
        ({"messages": [{"from": "gpt", "value": None, "id": "r7"}]}, "no role and content"),
        ({"messages": TURNS, "tools": [{"name": "\ud800"}]}, "tools holds half a character"),
        ({"messages": [{**TURNS[0], "name": "\ud800"}]}, "half a character"),
    ],
)
def test_turns_that_are_none(tokenizer: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataUnreadable, match=says) as caught:
        prepared(tokenizer, fields)
    assert caught.value.where == "r:0"


@pytest.mark.parametrize("turns", [TURNS[:1], [TURNS[0], {**TURNS[1], "weight": 0}]])
def test_everything_is_learned_where_prompts_are(tokenizer: Any, turns: list[Any]) -> None:
    found, target = words(prepared(tokenizer, {"messages": turns}, train_on_prompt=True))
    assert target == found[1:]


def test_a_conversation_that_only_asks_is_left_out(tokenizer: Any) -> None:
    found = prepared(tokenizer, {"messages": TURNS[:1]}, {"messages": TURNS})
    assert (len(found), found.num_dropped) == (1, 1)
