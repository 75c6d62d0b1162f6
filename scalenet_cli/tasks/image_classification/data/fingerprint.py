"""Which samples a split has, as digests that do not depend on where the data lie."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import VisionDataset

from scalenet_cli.errors import ImageUnreadable
from scalenet_cli.tasks.image_classification.data.splits import IMAGE_ERRORS, Split
from scalenet_cli.tasks.image_classification.data.tars import TarImages
from scalenet_cli.training.contents import ContentRecord
from scalenet_cli.training.run_record import SplitRecord

# On a network disk a question takes longer than its answer is work.
_THREADS: Final = 16
# Samples of one piece of work: enough of them that a million make few pieces.
_PIECE: Final = 256
# Stands for the bytes of a sample that has none.
_NOTHING: Final = "nothing"
T = TypeVar("T")


def split_record(split: Split) -> SplitRecord:
    """Number and digest of a split's samples; no image is read."""
    digest = hashlib.sha256(repr(sorted(split.classes.items())).encode())
    targets = split.targets()
    if targets is not None:
        for index, target in enumerate(targets):
            name = split.name(index).removeprefix(split.place)
            digest.update(f"{name} {target}\n".encode(errors="surrogateescape"))
    return SplitRecord(num_samples=len(split), digest=digest.hexdigest())


def content_record(split: Split, *, read: bool) -> ContentRecord:
    """What tells whether the bytes of a split's samples change: sizes and times of files.

    Every sample is read where ``read`` says so: the bytes of its file, or the pixels of torchvision
    data that are no folder.

    Raises:
        ImageUnreadable: the system refuses to read one; what cannot be decoded is no matter here.
    """
    sizes, times = _sizes_and_times(split)
    content = None
    if read:
        content = _digest(_in_threads(len(split), lambda index: _digest_of_sample(split, index)))
    return ContentRecord(sizes=sizes, times=times, content=content)


def _sizes_and_times(split: Split) -> tuple[str | None, str | None]:
    source: Any = split.source
    if isinstance(source, TarImages):
        members = [source.members[at] for at in split.indices]
        tars = sorted({member.tar for member in members})
        return (
            _digest(f"{member.offset} {member.num_bytes}" for member in members),
            _digest(str(Path(tar).stat().st_mtime_ns) for tar in tars),
        )
    if split.has_files:
        found = list(_in_threads(len(split), lambda index: _size_and_time(split.file(index))))
        return _digest(size for size, _ in found), _digest(time for _, time in found)
    if not isinstance(source, VisionDataset):  # timm's reader of Hugging Face data
        return None, str(source.dataset._fingerprint)
    pixels = vars(source).get("data")
    if isinstance(pixels, torch.Tensor):
        pixels = pixels.numpy()
    if not isinstance(pixels, np.ndarray):
        return None, None
    return hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest(), None


def _size_and_time(path: str) -> tuple[str, str]:
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError:  # such as a link to nothing: training decides whether that matters
        return _NOTHING, _NOTHING
    return str(found.st_size), str(found.st_mtime_ns)


def _digest_of_sample(split: Split, index: int) -> str:
    try:
        return _digest_of_bytes(split, index)
    except IMAGE_ERRORS as error:
        refused = isinstance(error, OSError) and error.errno is not None
        if not refused or isinstance(error, FileNotFoundError):
            return _NOTHING
        raise ImageUnreadable(
            f"the image cannot be read: {error}", where=split.name(index)
        ) from None


def _digest_of_bytes(split: Split, index: int) -> str:
    if split.has_files:
        with Path(split.file(index)).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    item = split.source[split.indices[index]][0]
    if isinstance(item, Image.Image):
        return hashlib.sha256(f"{item.mode} {item.size} ".encode() + item.tobytes()).hexdigest()
    with item as file:
        return hashlib.sha256(file.read()).hexdigest()


def _in_threads(size: int, work: Callable[[int], T]) -> Iterator[T]:
    """The work on 0..size-1, in this order: reading and hashing leave the interpreter free."""

    def piece(start: int) -> list[T]:
        return [work(index) for index in range(start, min(start + _PIECE, size))]

    with ThreadPoolExecutor(_THREADS) as pool:
        for results in pool.map(piece, range(0, size, _PIECE)):
            yield from results


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(f"{line}\n".encode())
    return digest.hexdigest()
