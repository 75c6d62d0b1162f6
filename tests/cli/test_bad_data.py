"""`eval` of data and with options that cannot be used."""

import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.helpers import DATA, USAGE, Run, refuse
from tests.images import OPTIONS, write_classifier, write_images

CLASSES = "abcde"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_classifier(tmp_path)[0]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data" / "val", CLASSES, 10).parent


@pytest.fixture
def denied(run: Run, tmp_path: Path, checkpoint: Path, images: Path) -> Callable[..., str]:
    """`eval` of the tiny classifier refuses; ``--data`` is the folder of good images by default."""

    def refused(
        code: str,
        *says: str,
        data: object = images,
        status: int = DATA,
        flags: tuple[object, ...] = (),
    ) -> str:
        arguments = ("eval", checkpoint, "--data", data, *OPTIONS["vit"], "--workers", 0, *flags)
        return refuse(run, tmp_path, *arguments, status=status, code=code, says=says)

    return refused


Denied = Callable[..., str]


def test_data_that_are_not_there(denied: Denied, tmp_path: Path) -> None:
    denied("data-not-found", "there is no such data", data=tmp_path / "nowhere")
    (tmp_path / "empty" / "val").mkdir(parents=True)
    denied("data-unreadable", "Found 0 images", data=tmp_path / "empty")
    (tmp_path / "file.txt").write_text("x")
    says = ("the model classifies images", "is a file of text")
    denied("option", *says, data=tmp_path / "file.txt", status=USAGE)
    for name in ("a.tar", "b.tar"):
        (tmp_path / name).write_bytes(b"" if name == "a.tar" else b"no tar" * 100)
        denied("data-unreadable", "no images can be read", data=tmp_path / name)


def test_a_split_that_is_not_there(denied: Denied, tmp_path: Path, images: Path) -> None:
    denied("data-not-found", "no split test, but val", flags=("--split", "test"))
    (images / "val").rename(images / "train")
    denied("data-not-found", "no split validation, but train", "--split")


def test_classes_that_are_not_the_models(denied: Denied, tmp_path: Path) -> None:
    for count in (4, 6):
        data = write_images(tmp_path / f"of{count}", [f"c{n}" for n in range(count)], 12)
        says = f"the data have {count} classes, but the model has 5"
        denied("classes-differ", says, "--class-map", data=data)
    write_images(tmp_path / "flat", [""], 3)
    denied("classes-differ", "the data have 1 classes", data=tmp_path / "flat")
    (tmp_path / "map.txt").write_text("".join(f"{n}\n" for n in (*"vwxyz", "a")))
    denied("classes-differ", "6 classes, but", flags=("--class-map", tmp_path / "map.txt"))


def test_targets_out_of_range(denied: Denied, tmp_path: Path, images: Path) -> None:
    from tests.tasks.image_classification.test_readers import add, write_shards

    write_shards(tmp_path / "w")  # targets from 0 to 6, without names
    flags = ("--dataset", "wds/x", "--split", "x-val-{0000..0001}.tar")
    denied("classes-differ", "7 classes, but the model has 5", data=tmp_path / "w", flags=flags)
    with tarfile.open(tmp_path / "w" / "x.tar", "w") as tar:
        add(tar, "a.png", (images / "val" / "a" / "000.png").read_bytes())
        add(tar, "a.cls", b"-1")
    flags = ("--dataset", "wds/x", "--split", "x.tar")
    denied("target-out-of-range", "a target is -1", data=tmp_path / "w", flags=flags)


def png(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds almost nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


BAD_IMAGES = {
    "empty": b"",
    "text": b"not an image at all",
    "truncated": png(40, 40),
    "bomb": png(60_000, 60_000),
    "sliver": png(1, 30_000),
    "no height": png(16, 0),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_an_image_that_cannot_be_decoded_is_named(denied: Denied, images: Path, name: str) -> None:
    (images / "val" / "c" / "bad image.png").write_bytes(BAD_IMAGES[name])
    denied("image-unreadable", "cannot be decoded", "where: c/bad image.png", "--skip-corrupt")


def test_a_name_of_a_file_does_not_reach_the_terminal(denied: Denied, images: Path) -> None:
    (images / "val" / "c" / "bad\x1b[31m\n.png").write_bytes(b"")
    denied("image-unreadable", "bad\\x1b[31m\\n.png")


def test_no_image_is_left(denied: Denied, images: Path) -> None:
    for path in (images / "val").rglob("*.*"):
        path.write_bytes(b"damaged")
    denied("data-unreadable", "10 cannot be decoded", flags=("--skip-corrupt",))
