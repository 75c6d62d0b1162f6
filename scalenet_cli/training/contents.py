"""What a run knows of its samples' bytes, and whether they are still those that it began with."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import Field

from scalenet_cli.errors import RunDiffers
from scalenet_cli.plan.schema import Strict

_NOTHING_TO_COMPARE: Final = (
    "the run was begun without --data-digest, so there is nothing to compare the images' bytes with"
)


class ContentRecord(Strict):
    """Of one split, sha256 digests over all samples; None where there is no such thing."""

    sizes: str | None = Field(
        None, description="of files' sizes, of places in tars, or of the pixels held in memory"
    )
    times: str | None = Field(
        None, description="of modification times, or the fingerprint of a Hugging Face data set"
    )
    content: str | None = Field(None, description="of all bytes, with --data-digest")


class DataContents(Strict):
    """Of both splits."""

    train: ContentRecord
    val: ContentRecord


# Looks at the data; every byte is read where that is asked for.
Look = Callable[[bool], DataContents]


def require_same_contents(
    old: DataContents | None, look: Look, *, read: bool, where: Path
) -> tuple[str, ...]:
    """The samples' bytes are, as far as is known, those that the run began with.

    Copied data have other times and the same content. So times only say that it is worth a look:
    where the run has a digest of all bytes, the data are read again; else a note says so. ``read``
    has them read in any case. ``old`` is None of runs that an earlier version began.

    Raises:
        RunDiffers: sizes or bytes are others.
    """
    nothing = (_NOTHING_TO_COMPARE,) if read else ()
    if old is None:
        return nothing
    now = look(False)
    _refuse(_changed(old, now, lambda split: split.sizes), "files of other sizes", where)
    touched = _changed(old, now, lambda split: split.times)
    if old.train.content is None:
        return nothing or tuple(_told(name) for name in touched)
    if touched or read:
        now = look(True)
        _refuse(_changed(old, now, lambda split: split.content), "images of other content", where)
    return ()


def _changed(
    old: DataContents, now: DataContents, digest: Callable[[ContentRecord], str | None]
) -> list[str]:
    """The splits of which a digest is known of both, and is another one."""
    pairs = {"train": (old.train, now.train), "val": (old.val, now.val)}
    found = {name: (digest(was), digest(new)) for name, (was, new) in pairs.items()}
    return [name for name, both in found.items() if None not in both and both[0] != both[1]]


def _told(name: str) -> str:
    return (
        f"{name} data: names and sizes are those that the run began with, but modification times "
        "are not; whether the images are the same is known of runs begun with --data-digest"
    )


def _refuse(names: list[str], what: str, where: Path) -> None:
    if names:
        raise RunDiffers(
            f"the run was started otherwise: {'; '.join(f'{name} data: {what}' for name in names)}",
            where=str(where),
            hint="put the data back as they were, or choose another -o",
        )
