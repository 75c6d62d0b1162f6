"""Images in tars, found by their bytes' places: no open file is shared, any process reads any."""

import io
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple, final

from scalenet_cli.errors import DataNotFound, DataUnreadable
from scalenet_cli.families.sources.json_text import parse_json

# Names of webdataset's parts of a sample, in the order of preference.
_IMAGES: Final = ("jpg", "png", "webp", "jpeg")
_INFO_NAMES: Final = ("_info.json", "info.json")
_MAX_INFO_BYTES: Final = 10_000_000
_MAX_LABEL_BYTES: Final = 1_000_000
_MAX_SHARDS: Final = 100_000
# What stands before the first dot of a file's name is its sample's key.
_KEY: Final = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")


class Member(NamedTuple):
    """One image: the tar it is in, its name there, where its bytes are, and its target."""

    tar: str
    name: str
    offset: int
    num_bytes: int
    target: int


@final
class TarImages:
    """A reader in timm's sense over members of tars."""

    def __init__(self, members: Sequence[Member], class_to_idx: dict[str, int]) -> None:
        self.members = members
        self.class_to_idx = class_to_idx
        self.samples = [(member.name, member.target) for member in members]

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, index: int) -> tuple[io.BytesIO, int]:
        member = self.members[index]
        with Path(member.tar).open("rb") as file:
            # A header may claim any size, and Python allocates what it is asked for.
            there = file.seek(0, io.SEEK_END) - member.offset
            file.seek(member.offset)
            return io.BytesIO(file.read(min(member.num_bytes, max(there, 0)))), member.target

    def filename(self, index: int) -> str:
        """The member's path in its tar."""
        return self.members[index].name


def members_of(reader: Any, root: str) -> TarImages:
    """What timm's ``ReaderImageInTar`` found in one tar, and in tars inside it."""
    members = [
        Member(
            tar=root,
            name=str(info.name),
            offset=info.offset_data + (inner.offset_data if inner is not None else 0),
            num_bytes=info.size,
            target=int(target),
        )
        for (info, _, inner), target in zip(reader.samples, reader.targets, strict=True)
    ]
    return TarImages(members, dict(reader.class_name_to_idx))


def open_shards(root: str, split: str, place: str) -> TarImages:
    """A split of a webdataset: timm's ``_info.json`` names its shards, or a pattern of names does.

    Raises:
        DataNotFound: no such folder, split or shard.
        DataUnreadable: a shard is damaged, or a sample has no image or no label.
    """
    names, label = _shards(Path(root), split, place)
    members: list[Member] = []
    for name in names:
        path = Path(root) / name
        try:
            with tarfile.open(path, "r:") as tar:
                members += _samples(tar, str(path), label)
        except FileNotFoundError:
            raise DataNotFound("the shard is missing", where=str(path)) from None
        except (OSError, tarfile.TarError, ValueError, LookupError, TypeError) as error:
            raise DataUnreadable(f"the shard cannot be read: {error}", where=str(path)) from None
    return TarImages(members, {})


def _shards(root: Path, split: str, place: str) -> tuple[list[str], str]:
    """File names below the root, and the key of the label in a sample's JSON ('' for ``.cls``)."""
    if ".tar" in split:
        names = list(_expand(split.partition("|")[0]))
        label = ""
    else:
        entry = _info(root).get("splits", {}).get(split)
        if not isinstance(entry, dict) or not isinstance(entry.get("filenames"), list):
            raise DataNotFound(
                f"no _info.json tells which shards the split {split} has",
                where=place,
                hint="name the shards: --split 'NAME-{0000..0009}.tar'",
            )
        names = [str(name) for name in entry["filenames"]]
        label = str(entry.get("alt_label", ""))
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataUnreadable(f"a shard is called {name}, outside the folder", where=place)
    return names, label


def _info(root: Path) -> dict[str, Any]:
    for path in (root / name for name in _INFO_NAMES):
        if not path.is_file():
            continue
        try:
            if path.stat().st_size > _MAX_INFO_BYTES:
                raise ValueError(f"larger than {_MAX_INFO_BYTES:,} bytes")
            info: dict[str, Any] = parse_json(path.read_bytes())
            if not isinstance(info.get("splits", {}), dict):
                raise ValueError("splits is no mapping")
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            raise DataUnreadable(f"cannot be read: {error}", where=str(path)) from None
        return info
    return {}


def _expand(pattern: str) -> Iterator[str]:
    """``a-{08..11}.tar`` -> a-08.tar, a-09.tar, a-10.tar, a-11.tar."""
    match = re.search(r"\{(\d{1,9})\.\.(\d{1,9})\}", pattern)
    if match is None:
        yield pattern
        return
    first, last = match.groups()
    if int(last) - int(first) >= _MAX_SHARDS:
        raise DataUnreadable(f"--split {pattern} names more than {_MAX_SHARDS:,} shards")
    for number in range(int(first), int(last) + 1):
        shown = f"{number:0{len(first)}d}"
        yield from _expand(pattern[: match.start()] + shown + pattern[match.end() :])


def _samples(tar: tarfile.TarFile, path: str, label: str) -> Iterator[Member]:
    parts: dict[str, dict[str, tarfile.TarInfo]] = {}
    for info in tar:
        match = _KEY.fullmatch(info.name)
        if match is not None and info.isreg():
            parts.setdefault(match[1], {})[match[2].lower()] = info
    for key, found in parts.items():
        image = next((found[suffix] for suffix in _IMAGES if suffix in found), None)
        if image is None:
            raise ValueError(f"the sample {key} has no image, but {', '.join(found)}")
        if ("json" if label else "cls") not in found:
            raise ValueError(f"the sample {key} has no {'.json' if label else '.cls'}")
        target = _target(tar, found, label)
        if target >= 0 or not label:  # timm leaves out what a JSON labels -1
            yield Member(
                tar=path,
                name=image.name,
                offset=image.offset_data,
                num_bytes=image.size,
                target=target,
            )


def _target(tar: tarfile.TarFile, found: dict[str, tarfile.TarInfo], label: str) -> int:
    file = tar.extractfile(found["json" if label else "cls"])
    content = file.read(_MAX_LABEL_BYTES) if file is not None else b""
    return int(parse_json(content)[label]) if label else int(content)
