"""Which records are for training and which for validation, and what is told of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from scalenet_cli.errors import DataNotFound, OptionError
from scalenet_cli.tasks.causal_lm.data.corpus import Corpus, evaluation_records, open_corpus
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.training.data import DataOptions
from tests.tasks.causal_lm.test_chat import THINKING, TURNS
from tests.training.texts import RECIPE, WORDS, instructions, write_records, write_tokenizer


def opened(
    folder: Path, data: Path, *, chat: str | None = None, recipe: Any = None, **options: Any
) -> Corpus:
    write_tokenizer(folder / "words", chat=chat)
    config = LlamaConfig(vocab_size=64, max_position_embeddings=64)
    made = LanguageRecipe(**{**RECIPE, "val_share": 0.1, **(recipe or {})})
    return open_corpus(folder / "words", config, made, DataOptions(str(data), **options))


def save_alone(folder: Path, count: int) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(instructions(count)).save_to_disk(folder)
    return folder


def test_a_data_set_saved_alone_is_split(tmp_path: Path) -> None:
    found = opened(tmp_path, save_alone(tmp_path / "alone", 20))
    assert (len(found.train), len(found.val)) == (18, 2)
    assert found.notes[0] == "2 records are held out for validation (val_share)"
    # A file of a split goes before it.
    write_records(tmp_path / "alone" / "validation.jsonl", instructions(5))
    assert len(opened(tmp_path, tmp_path / "alone").val) == 5


def test_a_data_set_of_several_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    splits = {"train": 20, "test": 5, "dev": 4}
    rows = {name: datasets.Dataset.from_list(instructions(n)) for name, n in splits.items()}
    datasets.DatasetDict(rows).save_to_disk(tmp_path / "data")
    found = opened(tmp_path, tmp_path / "data", val_split="dev")
    assert (len(found.train), len(found.val)) == (20, 4)
    assert len(opened(tmp_path, tmp_path / "data").val) == 2


def test_splits_are_for_data_that_have_some(tmp_path: Path) -> None:
    file = write_records(tmp_path / "all.jsonl", instructions(20))
    folder = write_records(tmp_path / "data" / "train.jsonl", instructions(20)).parent
    alone = save_alone(tmp_path / "alone", 20)
    for data, option in ((file, "train"), (file, "val"), (alone, "train"), (alone, "val")):
        with pytest.raises(OptionError, match=f"--{option}-split dev is for data with splits"):
            opened(tmp_path, data, **{f"{option}_split": "dev"})
    for data in (file, alone):
        with pytest.raises(OptionError, match="--split dev is for data with splits"):
            evaluation_records(str(data), "dev", None, target="model")
    assert len(evaluation_records(str(alone), None, 3, target="model")) == 3
    with pytest.raises(OptionError, match=rf"--val-split dev .*: {file} has none"):
        opened(tmp_path, folder, val_data=str(file), val_split="dev")
    with pytest.raises(DataNotFound, match=r"no dev\.jsonl"):
        opened(tmp_path, folder, val_split="dev")


def written(found: Corpus) -> tuple[list[str], list[str]]:
    """The words of both splits, without what begins and ends them."""
    both = (found.train.tokens, found.val.tokens)
    train, val = ([WORDS[token] for token in tokens if token > 3] for tokens in both)
    return train, val


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_text_alone_is_cut_at_a_line_end(tmp_path: Path, ends: str) -> None:
    lines = [" ".join(f"w{5 + (at + n) % 50}" for n in range(6)) for at in range(40)]
    path = tmp_path / "book.txt"
    path.write_bytes(ends.join(lines).encode())
    found = opened(tmp_path, path)
    train, val = written(found)
    assert [*train, *val] == " ".join(lines).split()
    assert len(val) in (18, 24, 30)  # whole lines, about a tenth of them
    assert "characters are held out for validation (val_share)" in found.notes[0]
    as_record = tmp_path / "book.jsonl"
    as_record.write_text(json.dumps({"text": path.read_bytes().decode()}) + "\n")
    assert written(opened(tmp_path, as_record)) == (train, val)


def test_a_text_of_one_line_is_cut_between_words(tmp_path: Path) -> None:
    words = [f"w{5 + at % 50}" for at in range(100)]
    (tmp_path / "book.txt").write_text("w5\n" + " ".join(words) + "\n")
    train, val = written(opened(tmp_path, tmp_path / "book.txt"))
    assert train == ["w5", *words[: len(train) - 1]]
    assert 9 <= len(val) <= 11
    assert len(train) + len(val) == 101


@pytest.mark.parametrize("text", ["w5", "\n\nw5" + " " * 50, "w5 " + "w" * 400 + "\n"])
def test_a_text_that_cannot_be_cut(tmp_path: Path, text: str) -> None:
    path = tmp_path / "book.txt"
    path.write_text(text)
    with pytest.raises(OptionError, match=r"of 1 records val_share 0\.1 holds 0 out") as raised:
        opened(tmp_path, path)
    assert raised.value.hint == "give --val-data, or more records than one"
    val = write_records(tmp_path / "val.jsonl", instructions(2))
    if text == "w5":
        assert len(opened(tmp_path, path, val_data=str(val)).val) == 2


def test_one_record_that_is_no_plain_text_is_not_cut(tmp_path: Path) -> None:
    record = {"prompt": "w5", "completion": "w6", "text": "w5 w6 " * 50}
    with pytest.raises(OptionError, match="of 1 records"):
        opened(tmp_path, write_records(tmp_path / "x.jsonl", [record]))


def test_answers_that_are_not_learned_are_told(tmp_path: Path) -> None:
    record = {"messages": [*TURNS, *TURNS]}
    data = write_records(tmp_path / "train.jsonl", [record] * 20)
    recipe = {"template": "chat", "max_length": 64}
    notes = opened(tmp_path, data, chat=THINKING, recipe=recipe).notes
    assert notes[1].startswith("training: 18 records (chat template) are 18 sequences")
    assert "18 answers are not learned, because the template writes them otherwise" in notes[1]
    assert "; 2 answers are not learned" in notes[2]
