"""What no file of results may replace: parts of bundles, runs, studies and checkpoints; inputs."""

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final

from scalenet_cli.bundle.read import is_bundle
from scalenet_cli.bundle.staging import foreign_files
from scalenet_cli.errors import OutputExists
from scalenet_cli.families.sources.carried import carried_files
from scalenet_cli.files.output_parts import RUN_PARTS, STUDY, STUDY_PARTS, is_run

# Of a checkpoint's folder, beside what carried_files knows.
_CHECKPOINT_PARTS: Final = ("*config.json", "*.index.json")


def require_no_part(path: Path, option: str, inputs: Iterable[Path]) -> None:
    """A file that is to be written is no part of anything but results, be it through links.

    ``inputs`` are files and folders that are read; nothing in them is replaced.

    Raises:
        OutputExists: it is one, whatever --force says.
    """
    try:
        # What is replaced is a link itself, not what it leads to; neither is to be lost.
        places = {path.parent.resolve() / path.name, path.resolve()}
        wholes = {whole for place in places for whole in _wholes(place)}
        wholes |= {str(read) for read in inputs for place in places if _is_in(place, read)}
    except (OSError, ValueError):  # of a path that cannot be written either
        return
    for whole in sorted(wholes):
        raise OutputExists(
            f"the output is part of {whole}",
            where=str(path),
            hint=f"choose another {option}: --force replaces earlier results, and nothing else",
        )


def _wholes(place: Path) -> Iterator[str]:
    """What a file is part of, or would be."""
    for folder in place.parents:
        first, *rest = place.relative_to(folder).parts
        if (
            is_bundle(folder)
            and (folder / first).exists()
            and folder / first not in foreign_files(folder)
        ):
            yield f"the bundle {folder}"
        if is_run(folder) and _is_any_of(RUN_PARTS, first):
            yield f"the run {folder}"
        outcome = first == "cells" and len(rest) < 3
        if (folder / STUDY).is_file() and (outcome or _is_any_of(STUDY_PARTS, first)):
            yield f"the study {folder}"
    folder = place.parent
    if (
        (folder / "config.json").is_file()
        and place.is_file()
        and (place in carried_files(folder) or _is_any_of(_CHECKPOINT_PARTS, place.name))
    ):
        yield f"the checkpoint {folder}"


def _is_in(place: Path, read: Path) -> bool:
    """Whether an existing file is one that is read, or lies in a folder that is."""
    if not (place.exists() and read.exists()):
        return False
    return place.samefile(read) or (read.is_dir() and place.is_relative_to(read.resolve()))


def _is_any_of(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
