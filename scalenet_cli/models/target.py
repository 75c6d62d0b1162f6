"""What a reference names: a bundle, a run, a checkpoint, ``timm:NAME`` or ``hf:REPO``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import Bundle, bundle_folder, is_bundle, open_bundle, open_manifest
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.errors import (
    BundleError,
    CheckpointError,
    ManifestUnreadable,
    MissingExtra,
    OptionError,
    PlanError,
    PlanErrors,
    SurgeryError,
)
from scalenet_cli.families import family as find_family
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import Family
from scalenet_cli.families.sources import HUB, Source, open_source
from scalenet_cli.models.source_options import SourceOptions

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A reference that was opened once, to be handed down to whatever a command does with it.

    It has a ``bundle`` or a ``source``; a checkpoint that is described for images of another size
    has neither, for its tensors are of its own. ``reference`` is as the user gave it, but for a
    run, of which it is the folder of its best bundle.
    """

    reference: str
    options: SourceOptions
    architecture: Architecture
    bundle: Bundle | None = None
    source: Source | None = None

    @property
    def family(self) -> Family:
        """Of the model. Its module brings timm or transformers along, so not before it is asked.

        Raises:
            UnknownArchitecture, ManifestUnreadable: there is no such family.
            MissingExtra: its library is not installed.
        """
        if self.bundle is None:
            return find_family(self.architecture.family)
        with blaming_manifest(self.bundle.folder):
            return find_family(self.architecture.family)

    @property
    def manifest(self) -> Manifest | None:
        """Of a bundle."""
        return None if self.bundle is None else self.bundle.manifest

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of how a checkpoint was understood."""
        return () if self.source is None else self.source.notes

    def files_folder(self, *, weights: bool = True) -> Path:
        """The folder of the files beside the weights; of ``hf:REPO`` where they were downloaded.

        With ``weights=False`` only small files are downloaded.
        """
        if self.bundle is not None:
            return self.bundle.folder
        if not self.reference.startswith(HUB):
            return Path(self.reference)
        from scalenet_cli.families.sources.hub import fetch_repository

        return fetch_repository(self.reference.removeprefix(HUB), weights=weights)


def open_target(
    reference: str | Path, options: SourceOptions | None = None, *, weights: bool = False
) -> Target:
    """Opens a reference. No tensor is read.

    Without ``weights`` the target can be described and not loaded: nothing large is downloaded,
    nothing is drawn, and of a bundle nothing but the manifest is read.

    A bundle may be replaced by another process while it is used: see :func:`use_target`.

    Raises:
        OptionError: options that say how to read a checkpoint, and the reference is a bundle.
        BundleError, CheckpointError: the reference cannot be used.
    """
    options = options or SourceOptions()
    folder = bundle_folder(Path(reference))
    if is_bundle(folder):
        return target_of(open_bundle(folder) if weights else open_manifest(folder), options)
    return open_checkpoint(reference, options, weights=weights)


def open_checkpoint(
    reference: str | Path, options: SourceOptions, *, weights: bool = False
) -> Target:
    """Opens a reference that has to be a checkpoint; see open_target."""
    source = open_source(
        str(reference),
        arch=options.arch,
        arguments=options.model_kwargs,
        weights=weights,
        random_seed=options.random_seed if weights else None,
    )
    return Target(
        reference=str(reference),
        options=options,
        architecture=source.architecture,
        source=source,
    )


def use_target(
    reference: str | Path,
    work: Callable[[Target], T],
    options: SourceOptions | None = None,
) -> T:
    """What the work makes of a reference with its weights.

    Of a bundle, the files stayed the same meanwhile.

    Raises:
        BundleExchanged: the bundle was replaced as many times as it was read.
        ScalenetError: see open_target; and what the work raises.
    """
    options = options or SourceOptions()
    if is_bundle(bundle_folder(Path(reference))):
        return read_steadily(Path(reference), lambda bundle: work(target_of(bundle, options)))
    return work(open_target(reference, options, weights=True))


def target_of(bundle: Bundle, options: SourceOptions | None = None) -> Target:
    """A bundle that is open already, as a target."""
    options = options or SourceOptions()
    refuse_source_options(str(bundle.folder), options)
    return Target(
        reference=str(bundle.folder),
        options=options,
        architecture=architecture_of(bundle.manifest),
        bundle=bundle,
    )


def architecture_of(manifest: Manifest) -> Architecture:
    """How to build the model that a bundle was made from."""
    source = manifest.source
    return Architecture(source.family, source.architecture, source.arguments)


def refuse_source_options(target: str, options: SourceOptions) -> None:
    """A bundle knows its architecture.

    Raises:
        OptionError: an option says otherwise.
    """
    if options.arch or options.model_kwargs or options.random_weights:
        raise OptionError(
            "--arch, --model-kwargs and --random-weights are not for bundles: the manifest knows "
            "the architecture",
            where=target,
        )


@contextmanager
def blaming_manifest(bundle: Path) -> Iterator[None]:
    """Whatever a manifest claims and no model can be is the manifest's fault, not the user's.

    Raises:
        BundleError: with the bundle as its place.
    """
    try:
        yield
    except BundleError as error:
        error.where = error.where or str(bundle)
        raise
    except MissingExtra:
        raise
    except (CheckpointError, PlanError, SurgeryError) as error:
        first = error.errors[0] if isinstance(error, PlanErrors) else error
        raise ManifestUnreadable(
            f"no model is as the manifest says: {first.fact}",
            where=str(bundle),
            hint="the manifest was changed: expand the source again",
        ) from None
