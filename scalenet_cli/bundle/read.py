"""Opens a bundle: what the manifest lists is there, and inside. `digests.py` reads it all."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from scalenet_cli.bundle.manifest import (
    FORMATS,
    MANIFEST,
    Manifest,
    Role,
    digest_content,
)
from scalenet_cli.errors import (
    UPGRADE_HINT,
    BundleDigestMismatch,
    BundleFileMissing,
    BundleFormatUnknown,
    BundlePathUnsafe,
    CheckpointError,
    ManifestUnreadable,
    NotABundle,
)
from scalenet_cli.families.sources.carried import is_plain_name
from scalenet_cli.families.sources.json_text import parse_json
from scalenet_cli.families.sources.safetensors_file import read_header
from scalenet_cli.families.sources.tensors import FileTensor, TensorSpec

if TYPE_CHECKING:
    import torch

MAX_MANIFEST_BYTES: Final = 100_000_000

# Device, number, size and time of the last change: another file, or other content, has another.
FileMark = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A folder with its manifest. Its files are known to exist, inside the folder, in full size.

    ``marks`` tell which files they were when the bundle was opened, the manifest included. Only of
    a bundle that was opened to be described nothing is known but the manifest.
    """

    folder: Path
    manifest: Manifest
    marks: Mapping[str, FileMark | None] = field(compare=False)


def is_bundle(path: Path) -> bool:
    """Whether the folder has a manifest; a path that no file can have is no bundle."""
    try:
        return (path / MANIFEST).is_file()
    except (OSError, ValueError):
        return False


def bundle_folder(path: Path) -> Path:
    """The bundle that a path means: of a training run, its best one, or else its last."""
    if is_bundle(path):
        return path
    return next((path / name for name in ("best", "last") if is_bundle(path / name)), path)


def open_manifest(folder: Path) -> Bundle:
    """A bundle to describe: only the manifest is read, and the files that it lists may be missing.

    Raises:
        BundleError: no bundle, of an unknown format, or damaged.
    """
    # Before it is read: a later one is another bundle's.
    marks = {MANIFEST: mark_of(folder / MANIFEST)}
    return Bundle(folder, read_manifest(folder), marks)


def open_bundle(folder: Path) -> Bundle:
    """The manifest, checked, and the presence of every file it lists. No tensor is read.

    Raises:
        BundleError: no bundle, of an unknown format, damaged, incomplete, or pointing outside.
    """
    opened = open_manifest(folder)
    marks = dict(opened.marks)
    for name, entry in opened.manifest.files.items():
        path = file_inside(folder, name)
        mark = marks[name] = mark_of(path)
        if mark is None or not path.is_file():
            raise BundleFileMissing(
                f"the bundle has no {name}", where=str(folder), hint="copy the bundle again"
            )
        if (num_bytes := mark[2]) != entry.num_bytes:
            raise BundleFileMissing(
                f"{name} has {num_bytes} bytes, but the manifest says {entry.num_bytes}",
                where=str(folder),
                hint="the file is truncated or was changed: copy the bundle again",
            )
    return replace(opened, marks=marks)


def mark_of(path: Path) -> FileMark | None:
    """Which file it is, and in which state; None where there is none."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder.

    Raises:
        NotABundle, BundleFormatUnknown, ManifestUnreadable: it cannot be used.
        BundleDigestMismatch: it was changed after it was written.
    """
    path = folder / MANIFEST
    if not folder.exists():
        raise NotABundle(
            "there is no such bundle",
            where=str(folder),
            hint="make one with `scalenet expand CHECKPOINT --plan PLAN -o OUT`",
        )
    if not path.is_file() or path.resolve().parent != folder.resolve():
        raise NotABundle(
            "the folder has no manifest.json of its own, so it is not a bundle",
            where=str(folder),
            hint="make one with `scalenet expand CHECKPOINT --plan PLAN -o OUT`",
        )
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ManifestUnreadable(f"larger than {MAX_MANIFEST_BYTES} bytes", where=str(path))
    try:
        content = parse_json(path.read_bytes())
        found = content["format"]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ManifestUnreadable(f"not a manifest: {error!r}", where=str(path)) from None
    if type(found) is not int or found not in FORMATS:
        raise BundleFormatUnknown(
            f"the bundle has format {found!r}; this version reads formats "
            f"{' and '.join(map(str, FORMATS))}",
            where=str(path),
            hint=UPGRADE_HINT,
        )
    return _validated(content, str(path))


def _validated(content: dict[str, Any], where: str) -> Manifest:
    """The digest first: an edited manifest is called edited, whatever else is wrong with it."""
    if not isinstance(content.get("digest"), str):
        raise ManifestUnreadable("the manifest has no digest", where=where)
    if content["digest"] != digest_content(content):
        raise BundleDigestMismatch(
            "manifest.json is not what was written: its digest differs from its content",
            where=where,
            hint="the bundle was damaged or edited: copy it again, or expand the source again",
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as failure:
        first = failure.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ManifestUnreadable(f"{place}: {first['msg']}", where=where) from None


def tensor_places(bundle: Bundle, role: Role) -> dict[str, FileTensor]:
    """Where each tensor of the files with one role lies.

    Raises:
        BundleDigestMismatch: a header does not list what the manifest lists.
    """
    places: dict[str, FileTensor] = {}
    for name, entry in bundle.manifest.files.items():
        if entry.role != role:
            continue
        path = file_inside(bundle.folder, name)
        try:
            found = read_header(path).tensors
        except CheckpointError as error:
            raise BundleDigestMismatch(error.fact, where=str(path), hint=error.hint) from None
        listed = {key: TensorSpec(t.dtype, t.shape) for key, t in entry.tensors.items()}
        if {key: tensor.spec for key, tensor in found.items()} != listed:
            raise BundleDigestMismatch(
                f"{name} does not hold the tensors that the manifest lists", where=str(path)
            )
        if places.keys() & found.keys():
            raise BundleDigestMismatch(f"{name} repeats tensors of another file", where=str(path))
        places |= found
    return places


def map_tensors(bundle: Bundle, role: Role) -> "Mapping[str, torch.Tensor]":
    """All tensors of the files with one role, mapped into memory, not read."""
    from safetensors import safe_open

    tensors: dict[str, torch.Tensor] = {}
    for name, entry in bundle.manifest.files.items():
        if entry.role == role:
            with safe_open(file_inside(bundle.folder, name), framework="pt") as file:
                tensors |= {key: file.get_tensor(key) for key in entry.tensors}
    return tensors


def file_inside(folder: Path, name: str) -> Path:
    """The path of a file that a manifest names.

    Raises:
        BundlePathUnsafe: it leads out of the bundle.
    """
    path = folder / name
    if not is_plain_name(name) or path.resolve().parent != folder.resolve():
        raise BundlePathUnsafe(
            f"the manifest names {name!r}, which is not a file inside the bundle",
            where=str(folder),
            hint="do not trust this bundle",
        )
    return path
