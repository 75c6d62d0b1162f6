"""Checks a bundle against its manifest: every tensor and every other file is what was written."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from scalenet_cli.bundle.manifest import Manifest, Role, TensorEntry, digest_tensors
from scalenet_cli.bundle.read import Bundle, file_inside, tensor_places
from scalenet_cli.bundle.tensor_scan import TensorScan, non_finite_tensors
from scalenet_cli.errors import BundleDigestMismatch
from scalenet_cli.families.sources.tensors import FileTensor
from scalenet_cli.reports.base import NonFiniteTensor


@dataclass(frozen=True, slots=True)
class CheckedTensors:
    """What reading every tensor of a bundle gave: nothing was damaged."""

    num_bytes: int
    non_finite: tuple[NonFiniteTensor, ...]


def check_digests(bundle: Bundle, *, known: Bundle | None = None) -> CheckedTensors:
    """Every tensor and every other file is what was written.

    Files that are links to the same ones of ``known``, which was checked, are not read again.

    Raises:
        BundleDigestMismatch: the first one that is not.
    """
    linked = frozenset() if known is None else _linked(bundle, known)
    for name, entry in bundle.manifest.files.items():
        if entry.role != "carried" or name in linked:
            continue
        with file_inside(bundle.folder, name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.sha256:
                raise _mismatch(bundle, name)
    checked = _check_tensors(bundle, linked)
    base = bundle.manifest.tensors("base")
    trained = bundle.manifest.trained
    kept = trained is None or not trained.changed_base
    if kept and source_digest(bundle.manifest) != bundle.manifest.source.digest:
        raise BundleDigestMismatch(
            f"the {len(base)} base tensors are not those of the source checkpoint",
            where=str(bundle.folder),
        )
    return checked


def _check_tensors(bundle: Bundle, linked: frozenset[str]) -> CheckedTensors:
    """Reads the tensors of all files but those that are ``linked``."""
    roles: tuple[Role, ...] = ("base", "instances")
    work = []
    for role in roles:
        entries = bundle.manifest.tensors(role)
        places = tensor_places(bundle, role)
        work += [
            (key, place, entries[key].sha256)
            for key, place in places.items()
            if place.path.name not in linked
        ]

    def check(item: tuple[str, FileTensor, str]) -> tuple[tuple[str, str], TensorEntry]:
        key, place, expected = item
        entry = scan_place(place)
        if entry.sha256 != expected:
            raise _mismatch(bundle, key)
        return (place.path.name, key), entry

    with ThreadPoolExecutor(max_workers=2) as pool:
        found = dict(pool.map(check, work))
    files = {
        name: file.model_copy(update={"tensors": {key: found[name, key] for key in file.tensors}})
        for name, file in bundle.manifest.files.items()
        if name not in linked
    }
    num_bytes = sum(place.spec.num_bytes for _, place, _ in work)
    return CheckedTensors(num_bytes, non_finite_tensors(files))


def _linked(bundle: Bundle, known: Bundle) -> frozenset[str]:
    """The files that both bundles list alike and that are one file on disk."""
    return frozenset(
        name
        for name, entry in bundle.manifest.files.items()
        if known.manifest.files.get(name) == entry
        and (bundle.folder / name).samefile(known.folder / name)
    )


def source_digest(manifest: Manifest) -> str:
    """The digest of the source checkpoint, from the base tensors under their author's keys."""
    renamed = manifest.source.renamed
    base = manifest.tensors("base")
    return digest_tensors({renamed.get(key, key): entry for key, entry in base.items()})


def scan_place(place: FileTensor) -> TensorEntry:
    """A tensor as a manifest lists it, from its bytes."""
    scan = TensorScan(place.spec)
    for chunk in place.chunks():
        scan.update(chunk)
    return scan.entry()


def _mismatch(bundle: Bundle, what: str) -> BundleDigestMismatch:
    return BundleDigestMismatch(
        f"{what} is not what was written: its sha256 differs from the manifest's",
        where=str(bundle.folder),
        hint="the bundle was damaged or changed: copy it again, or expand the source again",
    )
