"""The bundles of a run beside its state: whole, and of the steps that they claim."""

from typing import Final

from scalenet_cli.bundle.digests import check_digests
from scalenet_cli.bundle.manifest import Manifest
from scalenet_cli.bundle.read import Bundle, open_bundle
from scalenet_cli.errors import BundleError, CheckpointError, RunStateDamaged
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.state import Progress

_NAMES: Final = ("last", "best")


def check_saved(
    folder: RunFolder, start: Bundle, progress: Progress, last_step: int, *, sealed: bool
) -> dict[str, str]:
    """The digests of the manifests of last/ and best/, of those that are there.

    Each is the one that was saved with the state, or a later one: a checkpoint writes last/, then
    best/ with the same content, then its state, and a kill may fall between them. The later last/
    is written again before it counts. A state that is not ``sealed`` does not say which bundles
    belong to it: those that are whole are believed.

    Raises:
        RunStateDamaged: one is damaged, or of another run or step.
    """
    found: dict[str, str] = {}
    is_later = False
    for name in _NAMES:
        place = folder.bundle_place(name)
        if place is None:
            continue
        try:
            bundle = open_bundle(place)
            check_digests(bundle, known=start)
        except (BundleError, CheckpointError) as error:
            raise _damaged(folder, name, f"is damaged: {error.fact}") from None
        digest = bundle.manifest.digest
        if name == "last":
            steps = _steps(bundle.manifest, start.manifest)
            is_later = steps is not None and progress.step < steps <= last_step
        else:
            is_later = is_later and digest == found["last"]
        if sealed and not is_later and digest != progress.bundles.get(name):
            raise _damaged(folder, name, f"is not the one that step {progress.step} left")
        found[name] = digest
    return found


def _steps(manifest: Manifest, start: Manifest) -> int | None:
    """Optimizer steps since the start; None of a bundle that was not made from it."""
    if _origin(manifest) != _origin(start):
        return None
    before = 0 if start.trained is None else start.trained.steps
    return None if manifest.trained is None else manifest.trained.steps - before


def _origin(manifest: Manifest) -> tuple[object, ...]:
    return manifest.source, manifest.plan, manifest.seed, manifest.layout, manifest.ties


def _damaged(folder: RunFolder, name: str, facts: str) -> RunStateDamaged:
    return RunStateDamaged(
        f"{name}/ {facts}",
        where=str(folder.path),
        hint="put it back from a copy; or move it away, and an unfinished run goes on without it",
    )
