"""From what the user names to a Source: files, folders, ``timm:NAME``, ``hf:REPO``."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import CheckpointError, CheckpointNotFound, OptionError
from scalenet_cli.families.sources.carried import carried_files
from scalenet_cli.families.sources.folder import (
    decoder_architecture,
    decoder_source,
    has_weights,
    read_config,
    read_weights,
)
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
        return _open(reference, arch, arguments, weights, random_seed)


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
    given = dict(arguments or {})
    if reference.startswith(TIMM):
        return _timm_name(reference, arch, given, weights, random_seed)
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
        source = _folder(path, arch, given, weights, random_seed)
        return replace(source, reference=name)
    if random_seed is not None:
        raise OptionError("--random-weights needs timm:NAME or a folder with a config.json")
    return replace(_file(path, arch, given), reference=name)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long a name, or a null byte in it
        return False


def _file(path: Path, arch: str | None, arguments: Mapping[str, Any]) -> Source:
    from scalenet_cli.families.sources.read_checkpoint import read_checkpoint

    read = read_checkpoint(path)
    from scalenet_cli.families.sources.identify import identify_timm
    from scalenet_cli.families.sources.state_dicts import unwrap
    from scalenet_cli.families.sources.timm_checkpoint import convert

    checkpoint = unwrap(read)
    architecture, model, notes = identify_timm(checkpoint, arch, arguments)
    source = convert(checkpoint, architecture, model)
    return replace(source, kind=checkpoint.kind, notes=(*checkpoint.notes, *notes))


def _folder(
    path: Path,
    arch: str | None,
    arguments: dict[str, Any],
    weights: bool,
    random_seed: int | None,
) -> Source:
    config = read_config(path)
    if "architecture" in config:
        return _timm_folder(path, config, arch, arguments, weights, random_seed)
    if arch or arguments:
        raise OptionError(
            "--arch and --model-kwargs are for timm models; config.json describes this one",
            where=str(path),
        )
    if random_seed is not None:
        from scalenet_cli.families.sources.random_weights import random_decoder

        described = decoder_architecture(config, str(path / "config.json"))
        return replace(random_decoder(described, random_seed), carried=carried_files(path))
    return decoder_source(path, config, weights=weights)


def _timm_folder(
    path: Path,
    config: Mapping[str, Any],
    arch: str | None,
    arguments: dict[str, Any],
    weights: bool,
    random_seed: int | None,
) -> Source:
    """A folder as timm's push_to_hf_hub writes it."""
    from scalenet_cli.families.sources.timm_config import arguments_of, label_names_of

    name, labels = arch or str(config["architecture"]), label_names_of(config)
    merged = {**arguments_of(config), **arguments}
    if random_seed is not None or not (weights or has_weights(path)):
        named = _timm_name(f"{TIMM}{name}", None, merged, weights, random_seed)
        return replace(named, label_names=labels)
    from scalenet_cli.families.sources.identify import identify_timm
    from scalenet_cli.families.sources.state_dicts import unwrap
    from scalenet_cli.families.sources.timm_checkpoint import convert

    checkpoint = unwrap(read_weights(path))
    architecture, model, notes = identify_timm(checkpoint, name, merged)
    source = convert(checkpoint, architecture, model)
    return replace(
        source, kind=checkpoint.kind, label_names=labels, notes=(*checkpoint.notes, *notes)
    )


def _timm_name(
    reference: str,
    arch: str | None,
    arguments: dict[str, Any],
    weights: bool,
    random_seed: int | None,
) -> Source:
    if arch is not None:
        raise OptionError(f"{reference} names its architecture already; leave out --arch")
    from scalenet_cli.families.base import Architecture
    from scalenet_cli.families.timm_models import build_timm, known_family, preprocessing

    name = reference.removeprefix(TIMM)
    architecture = Architecture(known_family(name), name, arguments)
    if not weights:
        shown = preprocessing(build_timm(architecture))
        return Source(architecture, {}, reference, "random", preprocessing=shown)
    if random_seed is not None:
        from scalenet_cli.families.sources.random_weights import random_timm

        return replace(random_timm(architecture, random_seed), reference=reference)
    from scalenet_cli.families.sources.hub import fetch_timm_weights

    return replace(_file(fetch_timm_weights(name), name, arguments), reference=reference)
