"""Refuses what cannot be images, before anything is read."""

from pathlib import Path
from typing import Final

from scalenet_cli.errors import OptionError

# Of files of text, which some users give to a classifier.
_TEXT_SUFFIXES: Final = (".jsonl", ".json", ".txt", ".parquet")


def refuse_data(data: str | None, dataset: str, target: str) -> None:
    """Refuses what no image is read from; see tasks.base.Task.refuse_data.

    Raises:
        OptionError: there are no data, or they are a file of text.
    """
    if data is None and not dataset.lower().startswith("hfds/"):
        raise OptionError("--data is missing", hint="--data takes a folder or a .tar")
    if data and not dataset and Path(data).suffix.lower() in _TEXT_SUFFIXES:
        raise OptionError(
            f"the model classifies images, but {data} is a file of text",
            where=target,
            hint="--data takes a folder or a .tar; language models take text",
        )
