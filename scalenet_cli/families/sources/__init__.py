"""From what the user names to a Source: files, folders, ``timm:NAME``, ``hf:REPO``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import (
    CheckpointError,
    CheckpointNotFound,
    OptionError,
    UnknownArchitecture,
)
from scalenet_cli.families import FAMILIES, families_from_the_end
from scalenet_cli.families.base import SourceRequest
from scalenet_cli.families.sources.folder import read_config
from scalenet_cli.families.sources.read_checkpoint import read_checkpoint
from scalenet_cli.families.sources.source import Source as Source
from scalenet_cli.families.sources.source import check_tensors as check_tensors
from scalenet_cli.families.sources.tensors import require_little_endian

TIMM: Final = "timm:"
HUB: Final = "hf:"


def open_source(
    reference: str,
    *,
    arch: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: bool = True,
    random_seed: int | None = None,
) -> Source:
    """A checkpoint, understood but not read.

    ``weights=False`` is for questions that need no tensors: nothing large is downloaded, and
    ``tensors`` may be empty. ``random_seed`` draws random weights instead.

    Raises:
        CheckpointError: it is missing, damaged, unsafe, unknown or ambiguous.
        OptionError: an option that has no meaning for this kind of reference.
    """
    with naming(reference):
        return _open(reference, arch, arguments=arguments, weights=weights, random_seed=random_seed)


@contextmanager
def naming(reference: str) -> Iterator[None]:
    """Errors that do not say where they are come from the reference."""
    try:
        yield
    except CheckpointError as error:
        if error.where is None:
            error.where = reference
        elif Path(reference).name not in error.where:
            error.where = f"{reference}  {error.where}"
        raise


def _open(
    reference: str,
    arch: str | None,
    arguments: Mapping[str, Any] | None,
    weights: bool,
    random_seed: int | None,
) -> Source:
    require_little_endian()
    request = SourceRequest(arch, dict(arguments or {}), weights, random_seed)
    if reference.startswith(TIMM):
        from scalenet_cli.families.sources.timm_sources import open_timm_name

        return open_timm_name(reference.removeprefix(TIMM), request)
    path = Path(reference)
    if reference.startswith(HUB):
        from scalenet_cli.families.sources.hub import fetch_repository

        path = fetch_repository(reference.removeprefix(HUB), weights=weights)
    elif not _exists(path):
        raise CheckpointNotFound(
            "there is no such file or folder",
            where=reference,
            hint="a checkpoint file, a folder, timm:NAME or hf:REPO",
        )
    name = reference if reference.startswith(HUB) else path.resolve().name
    name = name.encode(errors="backslashreplace").decode()
    if path.is_dir():
        return replace(_folder(path, request), reference=name)
    if random_seed is not None:
        raise OptionError("--random-weights needs timm:NAME or a folder with a config.json")
    return replace(_file(path, request), reference=name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null byte in it
        return False


def _file(path: Path, request: SourceRequest) -> Source:
    read = read_checkpoint(path)
    from scalenet_cli.families.sources.identify import family_of_tensors
    from scalenet_cli.families.sources.state_dicts import unwrap

    checkpoint = unwrap(read)
    return family_of_tensors(checkpoint).open_tensors(checkpoint, request)


def _folder(path: Path, request: SourceRequest) -> Source:
    config = read_config(path)
    for known in families_from_the_end():
        if known.reads_config(config):
            return known.open_folder(path, config, request)
    raise UnknownArchitecture(
        "config.json is of no supported family",
        where=str(path),
        hint=f"families: {', '.join(FAMILIES)}",
    )
