"""What stands beside turns and instructions reaches the model; what does not is named."""

from pathlib import Path
from typing import Any, Final

import pytest

from scalenet_cli import LanguageOptions, evaluate_language
from scalenet_cli.diagnosis.diagnose import diagnose
from scalenet_cli.errors import DataUnreadable
from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker
from scalenet_cli.tasks.causal_lm.data.record import Record
from scalenet_cli.tasks.requests import DiagnoseOptions
from tests.tasks.causal_lm.helpers import write_lines, write_model, write_tokenizer
from tests.tasks.causal_lm.test_corpus import opened
from tests.tasks.causal_lm.test_sequences import prepared

# SmolLM2's own: without a system prompt it writes one.
CHATML: Final = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SYSTEM: Final = "the cat is on the log"
ASKED: Final = {"role": "user", "content": "where is the cat?"}
ANSWER: Final = {"role": "assistant", "content": "on the mat"}
GUIDE: Final = {"role": "system", "content": SYSTEM}
SHAREGPT: Final = [
    {"from": "human", "value": ASKED["content"]}, {"from": "gpt", "value": ANSWER["content"]},
]  # fmt: skip
ALPACA: Final = {"instruction": ASKED["content"], "input": "", "output": ANSWER["content"]}
EARLIER: Final = [{"role": "user", "content": "a log?"}, {"role": "assistant", "content": "no"}]


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = write_tokenizer(tmp_path_factory.mktemp("chatml"), template=CHATML)
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "messages", "answers"),
    [
        ({"conversations": SHAREGPT, "system": SYSTEM}, [GUIDE, ASKED, ANSWER], ["on the mat"]),
        ({"messages": [ASKED, ANSWER], "system": SYSTEM}, [GUIDE, ASKED, ANSWER], ["on the mat"]),
        ({"conversations": SHAREGPT, "system": " "}, [ASKED, ANSWER], ["on the mat"]),
        ({"prompt": [ASKED], "completion": [ANSWER], "system": SYSTEM}, [GUIDE, ASKED, ANSWER],
         ["on the mat"]),
        ({**ALPACA, "system": SYSTEM}, [GUIDE, ASKED, ANSWER], ["on the mat"]),
        ({**ALPACA, "system": "", "history": []}, [ASKED, ANSWER], ["on the mat"]),
        ({**ALPACA, "system": None, "history": None}, [ASKED, ANSWER], ["on the mat"]),
        ({**ALPACA, "history": [["a log?", "no"]]}, [*EARLIER, ASKED, ANSWER],
         ["no", "on the mat"]),
        ({**ALPACA, "system": SYSTEM, "history": [["a log?", "no"], ["it?", ""]]},
         [GUIDE, *EARLIER, {"role": "user", "content": "it?"}, {"role": "assistant", "content": ""},
          ASKED, ANSWER], ["no", "on the mat"]),
        # A conversation's own system prompt goes before the one beside it, as in LLaMA-Factory.
        ({"messages": [GUIDE, ASKED, ANSWER], "system": "no"}, [GUIDE, ASKED, ANSWER],
         ["on the mat"]),
    ],
)  # fmt: skip
def test_tokens_are_those_of_the_messages(
    chatty: Any, fields: dict[str, Any], messages: list[Any], answers: list[str]
) -> None:
    found = prepared(chatty, fields, max_length=4096)
    whole = chatty.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert found.tokens.tolist() == whole["input_ids"]
    text = "".join(f"{answer}<|im_end|>\n" for answer in answers)
    assert found.tokens[found.is_target].tolist() == chatty(text)["input_ids"]


def test_without_a_chat_template(tmp_path: Path) -> None:
    tokenizer = write_tokenizer(tmp_path)
    from transformers import AutoTokenizer

    plain = AutoTokenizer.from_pretrained(tokenizer)
    for template, context, prompt in (
        ("none", "", f"{SYSTEM}\n\n{ASKED['content']}\n\n"),
        ("alpaca", "", f"{SYSTEM}\n\n### Instruction:\n{ASKED['content']}\n\n### Response:\n"),
        ("alpaca", "it", f"{SYSTEM}\n\n### Instruction:\n{ASKED['content']}\n\n### Input:\nit\n\n"
         "### Response:\n"),
    ):  # fmt: skip
        maker = ExampleMaker(plain, template, train_on_prompt=False)  # type: ignore[arg-type]
        made = maker.make(Record({**ALPACA, "input": context, "system": SYSTEM}, "r"))
        assert made is not None
        assert made.text == f"{prompt}on the mat"
        assert made.targets == ((len(prompt), len(made.text)),)
        assert maker.unread.notes() == ()
        with pytest.raises(DataUnreadable, match="the record is a conversation"):
            maker.make(Record({**ALPACA, "history": [["a", "b"]]}, "r"))


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({**ALPACA, "history": [["a"]]}, r"history\[0\] is no pair of texts"),
        ({**ALPACA, "history": [["a", "b"], ["a", 3]]}, r"history\[1\] is no pair of texts"),
        ({**ALPACA, "history": [["a", "\ud800"]]}, r"history\[0\] holds half a character"),
        ({**ALPACA, "system": ["a"]}, "the field system is a list"),
        ({"conversations": SHAREGPT, "system": 3}, "the field system is a number"),
        # Preferences: neither side is an answer to learn.
        ({"instruction": "a", "chosen": "b", "rejected": "c"}, "output is missing"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "completion is missing"),
        ({"chosen": [ASKED, ANSWER], "rejected": [ASKED, ANSWER]}, "has chosen, rejected"),
        ({"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": SHAREGPT[1]},
         "no record has anything to learn"),
    ],
)  # fmt: skip
def test_fields_that_cannot_be(chatty: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(DataUnreadable, match=says):
        prepared(chatty, fields)


@pytest.mark.parametrize(
    ("fields", "unread"),
    [
        ({"conversations": SHAREGPT, "system": SYSTEM, "tools": "[]", "id": 0}, "id (2 records)"),
        ({"messages": [GUIDE, ASKED, ANSWER], "system": SYSTEM}, ""),
        ({"messages": [GUIDE, ASKED, ANSWER], "system": "no"}, "system (2 records)"),
        ({**ALPACA, "history": "of the cat", "tools": [{"name": "f"}]}, "history (2 records)"),
        ({**ALPACA, "text": "a", "kto\n_tag": True}, "text (2 records), kto\\n_tag (2 records)"),
        ({"prompt": "a", "completion": "b", "system": SYSTEM}, "system (2 records)"),
        ({"text": "a", "prompt": "b", "score": 0.5}, "prompt (2 records), score (2 records)"),
        ({"text": "a", "url": "", "tags": [], "meta": {}, "tools": "[]", "label": None}, ""),
        ({"text": "a", "x" * 99: 1}, f"{'x' * 30} ... {'x' * 30} (2 records)"),
        ({"text": "a", **{f"x{n:02}": n for n in range(15)}}, "x11 (2 records), and 3 more"),
    ],
)
def test_fields_that_are_not_read_are_counted(
    chatty: Any, fields: dict[str, Any], unread: str
) -> None:
    maker = ExampleMaker(chatty, "auto", train_on_prompt=False)
    assert maker.make(Record(fields, "r:0"))
    assert maker.make(Record(fields, "r:1"))
    note = "".join(maker.unread.notes())
    assert note.startswith("fields that were not read: ") if unread else not note
    assert note.endswith(unread)
    assert ("x11" in unread) == ("more" in note)


def test_a_run_names_them_once(tmp_path: Path) -> None:
    rows = [{**ALPACA, "source": "web", **({"id": n} if n else {})} for n in range(20)]
    data = write_lines(tmp_path / "x.jsonl", rows)
    notes = opened(tmp_path, data, recipe={"template": "none"}).notes
    told = [note for note in notes if "not read" in note]
    assert told == ["fields that were not read: source (20 records), id (19 records)"]


def test_an_evaluation_names_them_per_data(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    write_lines(tmp_path / "answers.jsonl", [{**ALPACA, "id": 1}] * 2)
    write_lines(tmp_path / "texts.jsonl", [{"text": "a cat", "id": 1, "url": ""}])
    question = {"query": "a", "choices": ["cat", "dog"], "gold": 0}
    write_lines(tmp_path / "questions.jsonl", [{**question, "id": 1, "passage": "b"}])
    write_lines(tmp_path / "all.jsonl", [question])
    names = ("answers", "texts", "questions", "all")
    data = tuple(str(tmp_path / f"{name}.jsonl") for name in names)
    notes = evaluate_language(model, LanguageOptions(data=data, template="none")).notes
    assert notes == (
        f"{data[0]}: fields that were not read: id (2 records)",
        f"{data[1]}: fields that were not read: id (1 record)",
        f"{data[2]}: fields that were not read: id (1 record), passage (1 record)",
    )
    how = DiagnoseOptions(template="none", skip="none", depths=1)
    found = diagnose(model, data[0], how=how)
    assert "fields that were not read: id (2 records)" in found.notes
