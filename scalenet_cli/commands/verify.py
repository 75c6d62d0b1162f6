"""``scalenet verify``: digests, ties, and the base, bit for bit."""

from pathlib import Path
from typing import TYPE_CHECKING

from scalenet_cli.bundle.digests import check_digests, scan_place
from scalenet_cli.bundle.manifest import Manifest, SourceEntry
from scalenet_cli.bundle.read import Bundle, tensor_places
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.bundle.tensor_scan import describe_non_finite, non_finite_tensors
from scalenet_cli.errors import (
    ArchitectureMismatch,
    BundleNotFinite,
    ManifestUnreadable,
    OptionError,
    SourceMismatch,
    UnknownArchitecture,
)
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import target_of
from scalenet_cli.reports.base import NonFiniteTensor, Report

if TYPE_CHECKING:
    from scalenet_cli.families.sources import Source
    from scalenet_cli.models.describe import DescribedModel


class VerifyReport(Report):
    """What was found to hold."""

    bundle: str
    num_tensors: int
    checked_bytes: int
    tie_groups: int
    tied_keys: int
    source: str
    source_digest: str
    base_trained: bool
    compared_with: str | None
    compared_tensors: int
    non_finite: tuple[NonFiniteTensor, ...]
    notes: tuple[str, ...]


def verify(
    bundle: str | Path,
    *,
    source: str | None = None,
    options: SourceOptions | None = None,
    strict: bool = False,
) -> VerifyReport:
    """Checks digests, ties, counts and the base.

    Every tensor is read, and the model is loaded, so that ties are checked by identity.

    Without ``source``, the base is compared with the digest that was taken of the source when the
    bundle was made; a base that was trained has no source to be compared with. NaN and infinite
    values are counted and reported; ``strict`` refuses them.

    Raises:
        BundleError: the first thing that does not hold.
    """
    if source is None and options not in (None, SourceOptions()):
        raise OptionError(
            "--arch, --model-kwargs, --random-weights and --seed say how to read --source, which "
            "is not given"
        )
    chosen = options or SourceOptions()
    return read_steadily(
        Path(bundle), lambda opened: _verify(str(bundle), opened, source, chosen, strict=strict)
    )


def _verify(
    name: str, opened: Bundle, source: str | None, options: SourceOptions, *, strict: bool
) -> VerifyReport:
    checked = check_digests(opened)
    notes = (describe_non_finite(checked.non_finite),) if checked.non_finite else ()
    if strict and notes:
        raise BundleNotFinite(
            notes[0],
            where=name,
            hint="expand a sound checkpoint; or leave out --strict",
        )
    _check_numbers(opened, checked.non_finite)
    manifest = opened.manifest
    compared = 0 if source is None else _compare(opened, source, options)
    return VerifyReport(
        bundle=name,
        num_tensors=len(manifest.tensors("base")) + len(manifest.tensors("instances")),
        checked_bytes=checked.num_bytes,
        tie_groups=len(manifest.ties),
        tied_keys=sum(len(aliases) for aliases in manifest.ties.values()),
        source=manifest.source.reference,
        source_digest=manifest.source.digest,
        base_trained=manifest.trained is not None and manifest.trained.changed_base,
        compared_with=source,
        compared_tensors=compared,
        non_finite=checked.non_finite,
        notes=notes,
    )


def _check_numbers(opened: Bundle, non_finite: tuple[NonFiniteTensor, ...]) -> None:
    """The ties hold, and the manifest's numbers are those of its model.

    Raises:
        BundleError: they are not.
    """
    from scalenet_cli.models.describe import describe
    from scalenet_cli.models.load import load_weights

    manifest = opened.manifest
    described = describe(target_of(opened))
    same_numbers = _has_same_numbers(described, manifest)  # on a model without weights
    load_weights(described, check=False)
    recorded = set(non_finite_tensors(manifest.files))
    # Whoever wrote a bundle before NaN was counted recorded none.
    if not same_numbers or not recorded <= set(non_finite):
        raise ManifestUnreadable(
            "the manifest's parameters, FLOPs or counts of NaN are not those of its model",
            where=str(opened.folder),
            hint="the manifest was changed: expand the source again",
        )


def _has_same_numbers(described: "DescribedModel", manifest: Manifest) -> bool:
    """The numbers that count-params, flops and inspect read off the manifest are the model's."""
    from scalenet_cli.measure.flops import count_flops
    from scalenet_cli.measure.params import count_parameters

    model, layout = described.model, described.layout
    work = count_flops(model, layout, described.family, manifest.flops.input_size)
    counts = count_parameters(model, layout, described.groups, described.train)
    return (counts, work) == (manifest.parameters, manifest.flops)


def _compare(bundle: Bundle, reference: str, options: SourceOptions) -> int:
    """Every base tensor equals the source's, byte for byte."""
    import hashlib

    where = f"{bundle.folder} and {reference}"
    if bundle.manifest.trained is not None and bundle.manifest.trained.changed_base:
        raise SourceMismatch(
            "the base was trained, so the source's tensors are no longer in the bundle",
            where=where,
            hint="compare the bundle that the run started from: RUN/start",
        )
    source = _open_recorded(bundle.manifest.source, reference, options, where)
    places = tensor_places(bundle, "base")
    if source.tensors.keys() != places.keys():
        different = sorted(source.tensors.keys() ^ places.keys())
        raise SourceMismatch(
            f"{len(different)} tensors are in only one of the two, such as {different[0]}",
            where=where,
        )
    for key, place in places.items():
        digest = hashlib.sha256()
        for chunk in source.tensors[key].chunks():
            digest.update(chunk)
        if source.tensors[key].spec != place.spec or digest.hexdigest() != scan_place(place).sha256:
            raise SourceMismatch(f"{key} differs between the bundle and the source", where=where)
    return len(places)


def _open_recorded(
    recorded: SourceEntry, reference: str, options: SourceOptions, where: str
) -> "Source":
    """The source, read as the one that the manifest records.

    Raises:
        SourceMismatch: it is of another architecture.
    """
    from scalenet_cli.families import family as find_family
    from scalenet_cli.families.sources import open_source

    with_options = find_family(recorded.family).takes_source_options
    try:
        return open_source(
            reference,
            arch=(options.arch or recorded.architecture)
            if with_options and _is_file(reference)
            else None,
            arguments=(options.model_kwargs or recorded.arguments) if with_options else {},
            random_seed=options.random_seed,
        )
    except (OptionError, ArchitectureMismatch, UnknownArchitecture) as error:
        raise SourceMismatch(
            f"the source is no {recorded.architecture}: {error.fact}", where=where
        ) from None


def _is_file(reference: str) -> bool:
    return Path(reference).exists()
