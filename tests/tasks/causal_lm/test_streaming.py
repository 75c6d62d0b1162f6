"""Text that is handed out token by token: whole characters, and the spaces between them."""

import random
from typing import Any, Final

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from scalenet_cli.tasks.causal_lm.generation.streaming import TextStream

GRIN: Final = "\U0001f600"
PARTS: Final = (
    "a", " a", "a a", " ", "  ", "\n", "\n    ", "\t", " ,", GRIN, f" {GRIN}{GRIN}", "\u4e2d",
    "e\u0301", "\u00e9", "a\n\n", "\ufffda",
)  # fmt: skip


def byte_level() -> Tokenizer:
    """A byte is a token, as in the alphabet of GPT-2: no character but ASCII's is of one token."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return made


def byte_fallback() -> Tokenizer:
    """As Llama's: spaces are letters of words, and bytes are for what no word has."""
    words = ["\u2581", "\u2581a", "a", ",", "<unk>", *(f"<0x{at:02X}>" for at in range(256))]
    vocabulary = {word: at for at, word in enumerate(words)}
    made = Tokenizer(
        models.BPE(vocabulary, [("\u2581", "a")], unk_token="<unk>", byte_fallback=True)
    )
    space = normalizers.Replace(" ", "\u2581")
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space])
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    return made


def metaspace() -> Tokenizer:
    """As T5's: every word begins with its space, and the first one is not written."""
    letters = ["\u2581", *sorted(set("".join(PARTS)))]
    made = Tokenizer(models.BPE({letter: at for at, letter in enumerate(letters)}, []))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return made


KINDS: Final = (byte_level, byte_fallback, metaspace)


def wrapped(backend: Tokenizer) -> Any:
    backend.add_special_tokens([AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")


def streamed(tokenizer: Any, prompt: list[int], new: list[int]) -> list[str]:
    pieces: list[str] = []
    stream = TextStream(tokenizer, pieces.append)
    stream.put(torch.tensor([prompt]))
    for token in new:
        stream.put(torch.tensor([token]))
    stream.end()
    assert "".join(pieces) == stream.text
    assert "" not in pieces
    return pieces


@pytest.mark.parametrize("kind", KINDS)
def test_prompt_and_pieces_are_the_whole_text(kind: Any) -> None:
    tokenizer, draw = wrapped(kind()), random.Random(0)
    for _ in range(200):
        prompt, new = ("".join(draw.choices(PARTS, k=draw.randint(1, 8))) for _ in range(2))
        ids, begin = tokenizer.encode(f"a{prompt}{new}"), len(tokenizer.encode(f"a{prompt}"))
        whole = tokenizer.decode(ids)
        said = "".join(streamed(tokenizer, ids[:begin], ids[begin:]))
        assert tokenizer.decode(ids[:begin]) + said == whole, (prompt, new)


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_are_not_written(kind: Any) -> None:
    tokenizer = wrapped(kind())
    ids, end = tokenizer.encode("a a a"), tokenizer.eos_token_id
    first = len(tokenizer.encode("a"))
    begin, rest = ids[:first], ids[first:]
    for prompt in (begin, [end, *begin], [*begin, end]):
        new = [*[end] * 100, *rest[:2], end, end, *rest[2:], end]
        assert "".join(streamed(tokenizer, prompt, new)) == " a a"


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_a_character_is_handed_out_when_it_is_whole(kind: Any) -> None:
    tokenizer = wrapped(kind())
    prompt = tokenizer.encode("a")
    new = tokenizer.encode(f"a{GRIN}\u00e9a")[len(prompt) :]
    assert len(new) == 7
    assert streamed(tokenizer, prompt, new) == [GRIN, "\u00e9", "a"]
    # What the end cuts off is told, and so is what never becomes a character.
    assert "".join(streamed(tokenizer, prompt, new[:5])).startswith(f"{GRIN}\ufffd")
    assert streamed(tokenizer, prompt, [*new[:4], new[1], *new[6:]]) == [GRIN, "\ufffda"]


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
def test_bytes_that_make_no_character_are_not_held_forever(kind: Any) -> None:
    tokenizer = wrapped(kind())
    prompt = tokenizer.encode("a")
    first = tokenizer.encode(f"a{GRIN}")[len(prompt) :][0]
    pieces = streamed(tokenizer, prompt, [first] * 100)
    assert "".join(pieces) == "\ufffd" * 100
    assert len(pieces) == 4
