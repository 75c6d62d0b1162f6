"""What a folder's tokenizer files say, read as plain data: no library, and nothing is run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from scalenet_cli.families.sources.json_text import parse_json

# transformers can make a tokenizer of any one of them; the first one that is there is taken.
TOKENIZERS: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
MAX_TOKENIZER_BYTES: Final = 200_000_000


def tokenizer_notes(folder: Path, num_embeddings: int | None) -> tuple[str, ...]:
    """What a user should hear: no tokenizer, a damaged one, or one with more ids than embeddings.

    None of it stops an expansion: the tensors are whole.
    """
    present = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not present:
        return (
            "the folder has no tokenizer, so the bundle has none: finetune, eval and generate will "
            "need --tokenizer FOLDER",
        )
    try:
        highest = max(_ids(folder), default=-1)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return (f"the tokenizer cannot be read: {_first_line(error)}",)
    notes = []
    if num_embeddings is not None and highest >= num_embeddings:
        notes.append(
            f"the tokenizer has ids up to {highest}, but the embedding has {num_embeddings} rows: "
            f"a text with a token from {num_embeddings} on cannot be read by the model"
        )
    if present == ["tokenizer.model"] and not (folder / "tokenizer_config.json").is_file():
        notes.append(
            "tokenizer.model has no tokenizer_config.json beside it: scalenet reads it as Llama's, "
            "but transformers' AutoTokenizer guesses another kind, which splits texts otherwise"
        )
    if (folder / "additional_chat_templates").is_dir():
        notes.append(
            "only the default chat template comes along, not those in additional_chat_templates: "
            "copy the folder into the bundle if you need it"
        )
    return tuple(notes)


def _ids(folder: Path) -> Iterator[int]:
    """Ids of tokens; of a list of tokens, the last one's."""
    described = _json(folder / "tokenizer.json")
    yield from (token["id"] for token in described.get("added_tokens", ()))
    vocabulary = described.get("model", {}).get("vocab", {})
    yield from vocabulary.values() if isinstance(vocabulary, dict) else [len(vocabulary) - 1]
    yield from _json(folder / "vocab.json").values()
    yield from _json(folder / "added_tokens.json").values()
    settings = _json(folder / "tokenizer_config.json")
    yield from map(int, settings.get("added_tokens_decoder", {}))
    yield _num_pieces(folder / "tokenizer.model") - 1


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = parse_json(_read(path))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content


def _read(path: Path) -> bytes:
    if path.stat().st_size > MAX_TOKENIZER_BYTES:
        raise ValueError(f"{path.name} is larger than {MAX_TOKENIZER_BYTES} bytes")
    return path.read_bytes()


def _num_pieces(path: Path) -> int:
    """Tokens of a sentencepiece model: the messages of field 1, in protobuf's wire format."""
    if not path.is_file():
        return 0
    data = _read(path)
    at = pieces = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 != 2:
            raise ValueError(f"{path.name} is no sentencepiece model")
        size, at = _varint(data, at)
        at += size
        pieces += tag >> 3 == 1
    if at != len(data) or not pieces:
        raise ValueError(f"{path.name} is no sentencepiece model, or truncated")
    return pieces


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits per byte, and the place after it."""
    value = 0
    for shift in range(0, 64, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number is longer than 64 bits")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
