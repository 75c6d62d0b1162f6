"""Writes what a training run made of a bundle; files that did not change are linked, not copied."""

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, final

from scalenet_cli.bundle.manifest import FileEntry, Manifest
from scalenet_cli.bundle.read import Bundle
from scalenet_cli.bundle.staging import foreign_files, staged_bundle
from scalenet_cli.bundle.steady import require_unchanged
from scalenet_cli.bundle.tensor_files import new_files, write_file
from scalenet_cli.bundle.write import (
    carried_entry,
    carry_files,
    with_digest,
    write_manifest,
    write_text,
)
from scalenet_cli.errors import BundlePathUnsafe
from scalenet_cli.families.sources.tensors import hold
from scalenet_cli.files.durable import fsync_path

if TYPE_CHECKING:
    import torch

CARD: Final = "README.md"
# What a card says of the base, until training changes it.
UNCHANGED: Final = "The source's tensors are inside, unchanged"
CHANGED: Final = "The source's tensors were trained and are no longer inside"


def link_file(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system does not link.

    A bundle's files are never written again, so a link is as good as a copy, and copying a folder
    elsewhere makes real files of its links.
    """
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        fsync_path(target)


def _keep(path: Path, target: Path) -> None:
    """A file, a link, or a folder with all that is in it."""
    if path.is_symlink():
        target.symlink_to(path.readlink())
    elif path.is_dir():
        target.mkdir()
        for child in path.iterdir():
            _keep(child, target / child.name)
    elif path.is_file():
        link_file(path, target)


@final
@dataclass(frozen=True, slots=True)
class Start:
    """What a run begins with: a bundle's files, and some from ``outside``; the manifest has all."""

    source: Bundle
    manifest: Manifest
    outside: Mapping[str, Path] = field(default_factory=dict)


def start_with(source: Bundle, paths: Iterable[Path], replaces: Callable[[str], bool]) -> Start:
    """A start that has these files, and no others of the carried ones that they replace.

    Raises:
        BundlePathUnsafe: one of them is a link in the bundle, which may lead anywhere.
    """
    paths = tuple(paths)
    for path in paths:
        if path.parent == source.folder and path.is_symlink():
            raise BundlePathUnsafe(
                f"{path.name} is a link, which a bundle does not have",
                where=str(source.folder),
                hint="do not trust this bundle; or put what it links to in its place",
            )
    files = {
        name: entry
        for name, entry in source.manifest.files.items()
        if not (entry.role == "carried" and replaces(name))
    }
    found = {path.name: path for path in paths}
    files |= {name: carried_entry(path) for name, path in found.items()}
    if files == source.manifest.files:
        return Start(source, source.manifest)
    outside = {
        name: path for name, path in found.items() if files[name] != source.manifest.files.get(name)
    }
    manifest = source.manifest.model_copy(update={"files": dict(sorted(files.items()))})
    return Start(source, with_digest(manifest), outside)


def copy_start(start: Start, output: Path) -> None:
    """The bundle of a start; the source's files are linked where possible.

    Raises:
        BundleExchanged: another process replaced the source since it was opened.
    """
    with staged_bundle(output, force=True) as folder:
        for name in start.manifest.files.keys() - start.outside.keys():
            link_file(start.source.folder / name, folder / name)
        require_unchanged(start.source)
        # Copied, because their owner may change them.
        carry_files(folder, start.outside.values())
        write_manifest(folder, start.manifest)


def _trained_card(start: Bundle, manifest: Manifest, story: str) -> str:
    """The start's card, which tells of the training and of the base's tensors."""
    card = (start.folder / CARD).read_text(encoding="utf-8").split("\n## Training\n")[0]
    if manifest.trained is not None and manifest.trained.changed_base:
        card = card.replace(UNCHANGED, CHANGED)
    return f"{card}\n## Training\n\n{story}\n"


def write_trained(
    output: Path,
    start: Bundle,
    manifest: Manifest,
    *,
    base: "Mapping[str, torch.Tensor]",
    instances: "Mapping[str, torch.Tensor]",
    story: str,
) -> str:
    """A bundle with trained tensors, whole or not at all; an older one there is replaced.

    Returns the digest of its manifest.

    ``manifest`` is the start's with new numbers and a ``trained`` entry. ``base`` holds all source
    tensors under their own keys, or nothing where none changed; ``instances`` those of instances,
    and the base's that they override.

    Raises:
        OutputUnwritable: a full disk, for instance; the older bundle stays.
    """
    with staged_bundle(output, force=True, foreign=True) as folder:
        files: dict[str, FileEntry] = {}
        for name, entry in start.manifest.files.items():
            if entry.role == "carried" or (entry.role == "base" and not base):
                link_file(start.folder / name, folder / name)
                files[name] = entry
        for file in new_files("model", {k: hold(t, k) for k, t in base.items()}) if base else ():
            files[file.name] = write_file(folder, "base", file)
        held = {key: hold(tensor, key) for key, tensor in instances.items()}
        for file in new_files("adapters", held) if held else ():
            files[file.name] = write_file(folder, "instances", file)
        if CARD in files:
            (folder / CARD).unlink()  # a link to the start's: never written through
            files[CARD] = write_text(folder, CARD, _trained_card(start, manifest, story))
        # Somebody's notes, or an evaluation's files: they stay beside the new bundle.
        for path in foreign_files(output) if output.exists() else ():
            if path.name not in files:
                _keep(path, folder / path.name)
        listed = manifest.model_copy(update={"files": dict(sorted(files.items()))})
        return write_manifest(folder, listed)
