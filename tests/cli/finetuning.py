"""What the tests of a bad `finetune` start from: tiny data, a tiny bundle, a command line."""

from pathlib import Path
from typing import Any

from tests.cli.helpers import write_bundle
from tests.training.runs import write_data

SHORT = ("--max-steps", 2, "--batch-size", 4, "--epochs", 1, "--warmup-epochs", 0, "--workers", 0)


def write_ground(folder: Path) -> Path:
    """A folder with ``out``, a bundle of five classes, and ``data``: 16 and 6 pictures."""
    write_bundle(folder)
    write_data(folder / "data", train=16, val=6)
    return folder


def command(ground: Path, run: object, *more: Any, data: Path | None = None) -> tuple[Any, ...]:
    """The command line of two steps, with more options."""
    return ("finetune", ground / "out", "--data", data or ground / "data", "-o", run, *SHORT, *more)


def without(*names: str) -> tuple[Any, ...]:
    """The usual options but for some."""
    pairs = zip(SHORT[::2], SHORT[1::2], strict=True)
    return tuple(part for name, value in pairs if name not in names for part in (name, value))
