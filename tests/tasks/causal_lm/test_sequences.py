"""From records to rows: what is learned, what is cut, how rows are packed and ordered."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker
from scalenet_cli.tasks.causal_lm.data.record import Record
from scalenet_cli.tasks.causal_lm.data.samples import (
    IGNORED,
    TokenRows,
    collate_rows,
    grouped_order,
)
from scalenet_cli.tasks.causal_lm.data.sequences import Sequences, pack, tokenize
from scalenet_cli.tasks.causal_lm.data.templates import ALPACA, Template
from tests.models import tiny_case
from tests.training.texts import CHAT, WORDS, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_tokenizer(tmp_path_factory.mktemp("chat"), chat=CHAT)


def prepared(
    tokenizer: Any,
    *records: dict[str, Any],
    template: Template = "auto",
    max_length: int = 64,
    train_on_prompt: bool = False,
) -> Sequences:
    maker = ExampleMaker(tokenizer, template, train_on_prompt=train_on_prompt)
    examples = [maker.make(Record(fields, f"r:{at}")) for at, fields in enumerate(records)]
    return tokenize(examples, tokenizer, max_length, 64, "r")


def words(found: Sequences, at: int = 0) -> tuple[list[str], list[str]]:
    """All tokens of a sequence, and those of them that are learned."""
    span = slice(found.bounds[at], found.bounds[at + 1])
    tokens = [WORDS[token] for token in found.tokens[span]]
    learned = found.is_target[span]
    return tokens, [token for token, is_target in zip(tokens, learned, strict=True) if is_target]


def test_only_the_answer_and_its_end_are_learned(tokenizer: Any) -> None:
    record = {"instruction": "w5 w6", "input": "w7", "output": "w8 w9"}
    found = prepared(tokenizer, record, template="none")
    assert words(found) == (["<s>", "w5", "w6", "w7", "w8", "w9", "</s>"], ["w8", "w9", "</s>"])
    assert words(prepared(tokenizer, {"prompt": "w5", "completion": " w6"}))[1] == ["w6", "</s>"]
    whole = prepared(tokenizer, record, template="none", train_on_prompt=True)
    assert words(whole)[1] == ["w5", "w6", "w7", "w8", "w9", "</s>"]


def test_alpaca_is_what_was_published(tokenizer: Any) -> None:
    maker = ExampleMaker(tokenizer, "auto", train_on_prompt=False)
    assert maker.template == "alpaca"
    example = maker.make(Record({"instruction": "Do it.", "input": "", "output": "Done."}, "r"))
    assert example is not None
    prompt = ALPACA.format(instruction="Do it.")
    assert example.text == f"{prompt}Done."
    assert prompt.endswith("### Instruction:\nDo it.\n\n### Response:\n")
    assert example.targets == ((len(prompt), len(prompt) + 5),)


def test_a_conversation_teaches_every_answer(chatty: Any) -> None:
    turns = [("system", "w9"), ("user", "w10"), ("assistant", "w11 w12"), ("user", "w13"),
             ("assistant", "w14")]  # fmt: skip
    record = {"messages": [{"role": role, "content": text} for role, text in turns]}
    found = prepared(chatty, record)
    # The template writes BOS itself, or leaves it out: nothing is put in front.
    assert words(found)[0][:3] == ["w4", "<unk>", "w9"]
    assert words(found)[1] == ["w11", "w12", "</s>", "w14", "</s>"]
    instruction = prepared(chatty, {"instruction": "w10", "output": "w11"})
    assert words(instruction)[1] == ["w11", "</s>"]
    mixed = prepared(chatty, record, {"text": "w5 w6"}, record)
    assert [len(words(mixed, at)[0]) for at in range(3)] == [21, 4, 21]


def test_plain_text_is_cut_into_pieces_and_answers_at_their_end(tokenizer: Any) -> None:
    text = {"text": " ".join(f"w{at}" for at in range(4, 13))}
    found = prepared(tokenizer, text, max_length=5)
    assert found.lengths.tolist() == [5, 5]  # and EOS alone, of which nothing can be learned
    assert found.num_cut == 0
    assert words(found, 1)[1] == ["w9", "w10", "w11", "w12"]
    long = {"instruction": "w5", "output": "w6 w7 w8 w9"}
    cut = prepared(tokenizer, long, template="none", max_length=4)
    assert (words(cut)[1], cut.num_cut) == (["w6", "w7"], 1)


def test_an_end_that_the_tokenizer_adds_is_learned(tmp_path: Path, tokenizer: Any) -> None:
    records: tuple[dict[str, Any], ...] = (
        {"instruction": "w5", "output": "w6"}, {"prompt": "w5", "completion": " w6 </s>"},
        {"text": "w5 w6 w7"},
    )  # fmt: skip
    ending = prepared(write_tokenizer(tmp_path, ends=True), *records, template="none")
    assert words(ending) == (["<s>", "w5", "w6", "</s>"], ["w6", "</s>"])
    plain = prepared(tokenizer, *records, template="none")
    assert words(plain, 1) == (["<s>", "w5", "w6", "</s>"], ["w6", "</s>"])
    assert [words(ending, at) for at in (0, 2)] == [words(plain, at) for at in (0, 2)]


def test_the_tokenizer_gets_a_bounded_amount_of_text(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"text": " ".join(["w5"] * size)} for size in (1, 9, 40, 2, 3, 8)]
    records += [{"text": ""}, {"text": "w6 w7"}]
    whole = prepared(tokenizer, *records)
    monkeypatch.setattr("scalenet_cli.tasks.causal_lm.data.sequences._CHARACTERS", 30)
    sizes: list[int] = []

    def listening(texts: list[str], **how: Any) -> Any:
        sizes.append(sum(map(len, texts)))
        return tokenizer(texts, **how)

    listening.eos_token_id = tokenizer.eos_token_id  # type: ignore[attr-defined]
    maker = ExampleMaker(tokenizer, "none", train_on_prompt=False)
    examples = [maker.make(Record(fields, "r")) for fields in records]
    assert tokenize(examples, listening, 64, 64, "r").digest == whole.digest
    assert sizes == [28, 119, 13, 28]  # one that is longer alone is alone


def test_what_has_nothing_to_learn_is_left_out_and_counted(tokenizer: Any) -> None:
    good = {"instruction": "w5", "output": "w6"}
    empty = {"instruction": "w5", "output": " "}
    late = {"instruction": " ".join(["w5"] * 9), "output": "w6"}
    found = prepared(tokenizer, good, empty, late, {"text": ""}, template="none", max_length=8)
    assert (len(found), found.num_dropped, found.num_cut) == (1, 3, 1)
    with pytest.raises(DataUnreadable, match="3 have no answer, or it begins after max_length"):
        prepared(tokenizer, empty, late, {"text": ""}, template="none", max_length=8)


@pytest.mark.parametrize(
    ("record", "says"),
    [
        ({"question": "w5"}, "the record has question"),
        ({}, "no fields"),
        ({"instruction": "w5"}, "output is missing"),
        ({"instruction": 5, "output": "w6"}, "instruction is a number"),
        ({"instruction": "w5", "input": [], "output": "w6"}, "input is a list"),
        ({"prompt": "w5"}, "completion is missing"),
        ({"text": None}, "text is null"),
        ({"messages": "w5"}, "messages is no list of turns"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] has no role and content"),
        ({"messages": [{"role": "user", "content": "w5"}]}, "the template is not"),
        ({"messages": [{"role": "\ud800", "content": "w5"}]}, r"messages\[0\] holds half a char"),
    ],
)  # fmt: skip
def test_records_without_the_expected_fields(
    tokenizer: Any, record: dict[str, Any], says: str
) -> None:
    with pytest.raises(DataUnreadable, match=says) as caught:
        prepared(tokenizer, {"text": "w5 w6"}, record)
    assert caught.value.where == "r:1"


def test_templates_that_are_not_there_or_refuse(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no chat template"):
        ExampleMaker(tokenizer, "chat", train_on_prompt=False)
    strict = write_tokenizer(tmp_path, chat="{{ raise_exception('roles must alternate') }}")
    turns = [{"role": "assistant", "content": "w5"}]
    with pytest.raises(DataUnreadable, match="refuses the record: roles must alternate"):
        prepared(strict, {"messages": turns})


@given(lengths=st.lists(st.integers(1, 32), max_size=60), room=st.integers(32, 64))
def test_rows_hold_every_sequence_once_and_are_full(lengths: list[int], room: int) -> None:
    rows = pack(lengths, room)
    assert sorted(at for row in rows for at in row) == list(range(len(lengths)))
    filled = [sum(lengths[at] for at in row) for row in rows]
    assert all(size <= room for size in filled)
    # No two rows would fit into one: less than twice the rows that are needed at least.
    assert all(one + other > room for at, one in enumerate(filled) for other in filled[:at])


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200),
    batch_size=st.integers(1, 16),
    epoch=st.integers(0, 3),
)
def test_batches_have_like_lengths(lengths: list[int], batch_size: int, epoch: int) -> None:
    array = np.array(lengths)
    order = grouped_order(array, batch_size, 5, epoch)
    assert torch.equal(order, grouped_order(array, batch_size, 5, epoch))
    assert sorted(order.tolist()) == list(range(len(lengths)))
    whole = len(lengths) // batch_size
    batches = order[: whole * batch_size].view(whole, batch_size)
    spans = sorted((min(array[b]), max(array[b])) for b in batches.tolist())
    if whole <= 50:  # sorted in one go: the batches' ranges follow each other
        assert all(one[1] <= two[0] for one, two in pairwise(spans))


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_packed_sequences_do_not_see_each_other(tokenizer: Any, name: str) -> None:
    """What transformers makes of positions that begin anew, sliding windows included."""
    records = [{"text": " ".join(f"w{5 + at + n}" for n in range(size))}
               for at, size in enumerate((9, 3, 6, 8))]  # fmt: skip
    found = prepared(tokenizer, *records)
    model = tiny_case(name).model
    batch = collate_rows([TokenRows(found, room=20, longest_first=False)[(0, at)] for at in (0, 1)])
    assert batch.positions_BN is not None
    packed = model(input_ids=batch.tokens_BN, position_ids=batch.positions_BN, use_cache=False)
    rows = pack(found.lengths.tolist(), 20)
    for row, logits_NV in zip(rows, packed.logits, strict=True):
        begin = 0
        for at in row:
            ids = torch.tensor(found.tokens[found.bounds[at] : found.bounds[at + 1]])[None].long()
            alone = model(input_ids=ids, use_cache=False).logits[0]
            torch.testing.assert_close(
                logits_NV[begin : begin + len(alone)], alone, atol=2e-6, rtol=1e-5
            )
            begin += len(alone)


def test_padding_is_neither_learned_nor_seen(tokenizer: Any) -> None:
    found = prepared(tokenizer, {"text": "w5 w6 w7 w8"}, {"text": "w9"})
    rows = TokenRows(found, room=None, longest_first=False)
    batch = collate_rows([rows[0], rows[1]])
    assert batch.positions_BN is None
    assert batch.tokens_BN[1].tolist() == [1, 9, 2, 0, 0, 0]
    assert batch.labels_BN[1].tolist() == [IGNORED, 9, 2, IGNORED, IGNORED, IGNORED]
    model = tiny_case("gemma3").model
    together = model(input_ids=batch.tokens_BN, use_cache=False).logits[1, :3]
    alone = model(input_ids=batch.tokens_BN[1:, :3], use_cache=False).logits[0]
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=1e-5)
    assert collate_rows([]).tokens_BN.shape == (0, 0)
