"""Reading a bundle that another process may replace at any moment: all of one, never of two.

``expand --force`` and a run that saves its bundles put a whole new folder in the place of the old
one. Whoever reads file after file by name would check one bundle and map another, or call damaged
what was exchanged. So files are marked when the bundle is opened, and looked at again after the
last one was read.
"""

import time
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Final, TypeVar

from scalenet_cli.bundle.manifest import MANIFEST
from scalenet_cli.bundle.read import Bundle, bundle_folder, mark_of, open_bundle
from scalenet_cli.errors import BundleExchanged, ScalenetError

T = TypeVar("T")

_ATTEMPTS: Final = 100
_PAUSE_SECONDS: Final = 0.01


def read_steadily(path: Path, work: Callable[[Bundle], T]) -> T:
    """What the work makes of a bundle, or of a run's best one, whose files stayed the same in it.

    Where they did not, it is done again with the bundle that is there now, whatever had come of it.
    What the first attempt mapped stays valid: its files exist as long as they are mapped.

    Raises:
        BundleExchanged: it was replaced as many times as it was read.
        ScalenetError: what opening or the work raised, of a bundle that stayed the same.
    """
    for _ in range(_ATTEMPTS):
        folder = bundle_folder(path)
        before = mark_of(folder / MANIFEST)
        try:
            bundle = open_bundle(folder)
            result = work(bundle)
        except (ScalenetError, OSError):
            if mark_of(folder / MANIFEST) == before and not _between_renames(folder):
                raise
        else:
            if is_unchanged(bundle):
                return result
        time.sleep(_PAUSE_SECONDS)
    raise BundleExchanged(
        f"the bundle was replaced {_ATTEMPTS} times while it was read",
        where=str(path),
        hint="read it when whatever writes it has ended",
    )


def is_unchanged(bundle: Bundle) -> bool:
    """Whether the folder still has the very files that it had when the bundle was opened."""
    return all(mark_of(bundle.folder / name) == mark for name, mark in bundle.marks.items())


def require_unchanged(bundle: Bundle) -> None:
    """What was just read is all of the bundle that was opened.

    Raises:
        BundleExchanged: it is not.
    """
    if not is_unchanged(bundle):
        raise BundleExchanged(
            "the bundle was replaced while it was read",
            where=str(bundle.folder),
            hint="run the same command again",
        )


def _between_renames(folder: Path) -> bool:
    """Whether it is away for a moment, where the file system cannot exchange two names."""
    if mark_of(folder / MANIFEST) is not None:
        return False
    return any(folder.parent.glob(f".{escape(folder.name)}.*.old/bundle"))
