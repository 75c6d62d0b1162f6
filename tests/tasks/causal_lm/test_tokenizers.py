"""Tokenizers from folders, hostile ones included."""

import io
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import (
    ArchitectureMismatch,
    CheckpointIncomplete,
    CheckpointNotFound,
    CheckpointUnreadable,
    MissingExtra,
)
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_ids, check_vocabulary, load_tokenizer
from tests.tasks.causal_lm.helpers import TEXTS, write_tokenizer


def write_sentencepiece(folder: Path, **options: Any) -> Any:
    """A tokenizer.model of Llama's kind, and its own processor."""
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    settings = {
        "vocab_size": 320, "model_type": "bpe", "byte_fallback": True, "minloglevel": 2,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3), model_writer=model, **{**settings, **options}
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def test_a_sentencepiece_model_alone_is_read_as_llamas(tmp_path: Path) -> None:
    processor = write_sentencepiece(tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    for text in (*TEXTS, "  the cat\t\n sat  ", "caf\u00e9 \U0001d11e"):
        assert tokenizer.encode(text) == [processor.bos_id(), *processor.encode(text)]
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert load_tokenizer(tmp_path).encode(TEXTS[0]) == processor.encode(TEXTS[0])


def test_a_sentencepiece_model_of_another_kind(tmp_path: Path) -> None:
    write_sentencepiece(tmp_path, add_dummy_prefix=False)
    with pytest.raises(CheckpointUnreadable, match="not of Llama's kind"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_keeps_its_template(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, template="{{ messages }}")
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.chat_template == "{{ messages }}"
    assert (len(tokenizer), tokenizer.vocab_size, tokenizer.bos_token_id) == (64, 64, 1)


def test_folders_without_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="the folder has no tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(CheckpointNotFound, match="no such folder of a tokenizer"):
        load_tokenizer(tmp_path / "gone")


HOSTILE = {
    "no JSON": ("tokenizer.json", b"{"),
    "an empty object": ("tokenizer.json", b"{}"),
    "a list": ("tokenizer.json", b"[]"),
    "null": ("tokenizer.json", b"null"),
    "not UTF-8": ("tokenizer.json", b"\xff\xfe"),
    "nested": ("tokenizer.json", b'{"a":' * 20_000),
    "settings that are a list": ("tokenizer_config.json", b"[]"),
    "settings that are no JSON": ("tokenizer_config.json", b"{"),
    "a class of numbers": ("tokenizer_config.json", b'{"tokenizer_class": 5}'),
    "several tokenizers": ("tokenizer_config.json", b'{"tokenizer_class": "RagTokenizer"}'),
    "tokens that are none": ("tokenizer_config.json", b'{"bos_token": {"content": 5}}'),
    "code": ("tokenizer_config.json", b'{"auto_map": {"AutoTokenizer": ["evil.Evil", null]}}'),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files(tmp_path: Path, name: str) -> None:
    write_tokenizer(tmp_path)
    file, content = HOSTILE[name]
    (tmp_path / file).write_bytes(content)
    (tmp_path / "evil.py").write_text("raise SystemExit('code of a stranger was run')")
    with pytest.raises(CheckpointUnreadable, match="the tokenizer cannot be used") as raised:
        load_tokenizer(tmp_path)
    assert raised.value.where == str(tmp_path)


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    monkeypatch.setattr("scalenet_cli.tasks.causal_lm.data.tokenizers.MAX_TOKENIZER_BYTES", 100)
    with pytest.raises(CheckpointUnreadable, match=r"tokenizer\.json has \d+ bytes"):
        load_tokenizer(tmp_path)


def test_without_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tokenizer(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(MissingExtra, match="the tokenizer needs the package transformers"):
        load_tokenizer(tmp_path)


def test_a_vocabulary_larger_than_the_embedding(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(write_tokenizer(tmp_path))
    check_vocabulary(tokenizer, 64, "x")
    check_vocabulary(tokenizer, 80, "x")
    with pytest.raises(ArchitectureMismatch, match=r"has 64 tokens, but .* has 63 rows"):
        check_vocabulary(tokenizer, 63, "x")
    # Added tokens are refused where they are met.
    tokenizer.add_tokens(["<image>"])
    check_vocabulary(tokenizer, 64, "x")
    check_ids(tokenizer, tokenizer.encode("the cat"), 64, "x.jsonl:1")
    with pytest.raises(ArchitectureMismatch, match=r"token 64 \('<image>'\), but .* has 64 rows"):
        check_ids(tokenizer, tokenizer.encode("the <image>"), 64, "x.jsonl:1")
