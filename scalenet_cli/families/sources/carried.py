"""Files that belong to a model but are no weights: its tokenizer, its licence."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

# Code (*.py) is never carried.
_CARRIED_SUFFIXES: Final = ("", ".json", ".jinja", ".md", ".model", ".txt")
_TOKENIZER: Final = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tekken.json",
    "chat_template*",
)
CARRIED: Final = (*_TOKENIZER, "generation_config.json", "LICENSE*", "NOTICE*")


def carried_files(folder: Path) -> tuple[Path, ...]:
    """The small files of a folder that belong to its model."""
    return tuple(
        sorted(
            path for path in folder.iterdir() if path.is_file() and _is_any_of(CARRIED, path.name)
        )
    )


def tokenizer_files(folder: Path) -> tuple[Path, ...]:
    """Those of them that make its tokenizer, the chat template included."""
    return tuple(path for path in carried_files(folder) if is_tokenizer_file(path.name))


def is_tokenizer_file(name: str) -> bool:
    """Whether a file of that name is part of a tokenizer."""
    return _is_any_of(_TOKENIZER, name)


def _is_any_of(patterns: Sequence[str], name: str) -> bool:
    named = any(fnmatchcase(name, pattern) for pattern in patterns)
    return named and Path(name).suffix in _CARRIED_SUFFIXES and is_plain_name(name)


def is_plain_name(name: str) -> bool:
    """Whether a manifest may name a file so: no path, and nothing that hides in a terminal."""
    plain = Path(name).name == name and name not in ("", ".", "..") and name.isprintable()
    return plain and "\\" not in name and len(name) <= 200
