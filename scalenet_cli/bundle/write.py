"""Puts a bundle's folder together. The manifest is written last."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from pathlib import Path

from scalenet_cli.bundle.manifest import (
    MANIFEST,
    FileEntry,
    Manifest,
    digest_content,
    needed_format,
)
from scalenet_cli.files.durable import fsync_path


def write_text(folder: Path, name: str, text: str) -> FileEntry:
    """One small file of the bundle."""
    data = text.encode(errors="backslashreplace")
    path = folder / name
    path.write_bytes(data)
    fsync_path(path)
    return FileEntry(role="carried", num_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def carry_files(folder: Path, paths: Iterable[Path]) -> dict[str, FileEntry]:
    """Copies of files that belong to the model, such as a tokenizer."""
    entries = {}
    for path in paths:
        target = folder / path.name
        shutil.copyfile(path, target)
        fsync_path(target)
        entries[path.name] = carried_entry(target)
    return entries


def carried_entry(path: Path) -> FileEntry:
    """A file that belongs to the model, as a manifest lists it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return FileEntry(role="carried", num_bytes=path.stat().st_size, sha256=digest)


def with_digest(manifest: Manifest) -> Manifest:
    """The same manifest with the format that its files need and the digest of what it says."""
    manifest = manifest.model_copy(update={"format": needed_format(manifest.files)})
    return manifest.model_copy(
        update={"digest": digest_content(json.loads(manifest.model_dump_json()))}
    )


def write_manifest(folder: Path, manifest: Manifest) -> str:
    """The last file: a folder without it is not a bundle. Returns the manifest's digest."""
    path = folder / MANIFEST
    written = with_digest(manifest)
    path.write_text(written.model_dump_json(indent=1) + "\n", encoding="utf-8")
    fsync_path(path)
    return written.digest
