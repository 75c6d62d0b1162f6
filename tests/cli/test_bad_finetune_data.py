"""Data that `finetune` cannot train on, and damaged images in data that it can."""

import json
import shutil
import struct
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.finetuning import command, write_ground
from tests.cli.helpers import DATA, Run, assert_refusal, refuse, short
from tests.training.runs import contents

Change = Callable[[Path], object]
FIRST = "class0/000.png"


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture
def data(ground: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(ground / "data", tmp_path / "data"))


def empty(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def missing(data: Path) -> None:
    shutil.rmtree(data)


def a_file(data: Path) -> None:
    shutil.rmtree(data)
    data.write_text("x")


def one_split(data: Path) -> None:
    for folder in (data / "train").iterdir():
        folder.rename(data / folder.name)
    shutil.rmtree(data / "train")
    shutil.rmtree(data / "validation")


def no_validation(data: Path) -> None:
    shutil.rmtree(data / "validation")


def no_training(data: Path) -> None:
    shutil.rmtree(data / "train")


def no_images(data: Path) -> None:
    for path in (data / "train").rglob("*.png"):
        path.rename(path.with_suffix(".txt"))


def less_to_validate(data: Path) -> None:
    shutil.rmtree(data / "validation" / "class4")


def less_to_train(data: Path) -> None:
    shutil.rmtree(data / "train" / "class4")


def an_empty_class(data: Path) -> None:
    less_to_train(data)
    (data / "train" / "class4").mkdir()


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (empty, "data-unreadable", ("Found 0 images",)),
        (missing, "data-not-found", ("there is no such data",)),
        (a_file, "data-unreadable", ("no images can be read",)),
        (one_split, "data-not-found", ("the same samples", "--val-split")),
        (no_validation, "data-not-found", ("no split validation, but train",)),
        (no_training, "data-not-found", ("no split train, but validation",)),
        (no_images, "data-unreadable", ("Found 0 images", "data/train")),
        (less_to_validate, "classes-differ", ("5 classes", "but 4 here; without class4")),
        (less_to_train, "classes-differ", ("4 classes", "but 5 here; with class4")),
        (an_empty_class, "classes-differ", ("4 classes", "but 5 here; with class4")),
    ],
    ids=short,
)
def test_data(
    run: Run, ground: Path, data: Path, tmp_path: Path, change: Change, code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    change(data)
    says = (*says, f"where: {data}")
    arguments = command(ground, tmp_path / "run", data=data)
    refuse(run, tmp_path, *arguments, status=DATA, code=code, says=says)


def test_a_trained_bundle_with_other_classes(
    run: Run, ground: Path, data: Path, tmp_path: Path
) -> None:
    assert run(*command(ground, tmp_path / "run"), "--set", "train=all").exit_code == 0
    for split in ("train", "validation"):
        (data / split / "class0").rename(data / split / "apple")
    arguments = list(command(ground, tmp_path / "next", data=data))
    arguments[1] = tmp_path / "run"
    says = ("such as class0; the data have apple", "--reset-head")
    refuse(run, tmp_path, *arguments, status=DATA, code="classes-differ", says=says)


def png(width: int, height: int) -> bytes:
    """The header of a large image, over pixels that are not there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _truncated(whole: bytes) -> bytes:
    return whole[: len(whole) // 2]


DAMAGED: list[tuple[str, Callable[[bytes], bytes], str]] = [
    ("zero bytes", lambda _: b"", "cannot identify image"),
    ("text", lambda _: b"<html>not found</html>", "cannot identify image"),
    ("truncated", _truncated, "truncated"),
    ("bomb", lambda _: png(60_000, 60_000), "3600000000 pixels"),
    ("narrow", lambda _: png(100_000, 1), "too narrow"),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("split", "content", "says"),
    [("train", *case[1:]) for case in DAMAGED] + [("validation", *DAMAGED[0][1:])],
    ids=[*(case[0] for case in DAMAGED), "validation"],
)
def test_a_damaged_image_ends_the_run_and_is_named(
    run: Run, ground: Path, data: Path, tmp_path: Path, split: str,
    content: Callable[[bytes], bytes], says: str,
) -> None:  # fmt: skip
    path = data / split / FIRST
    path.write_bytes(content(path.read_bytes()))
    ended = run(*command(ground, tmp_path / "run", "--max-steps", 4, data=data))
    stderr = "\n".join(line for line in ended.stderr.splitlines() if line[:5] != "step ")
    assert_refusal(ended.exit_code, ended.stdout, stderr, status=DATA, code="image-unreadable")
    assert says in stderr
    assert FIRST in stderr
    assert "--skip-corrupt" in stderr


def damage(data: Path) -> None:
    for name in (f"train/{FIRST}", "train/class1/006.png", f"validation/{FIRST}"):
        (data / name).write_bytes(b"")


def test_skipped_samples_are_named_once_counted_and_do_not_change_between_runs(
    run: Run, ground: Path, data: Path, tmp_path: Path
) -> None:
    damage(data)
    options = ("--max-steps", 8, "--eval-steps", 4, "--skip-corrupt", "--json")
    for name in ("one", "two"):
        ended = run(*command(ground, tmp_path / name, *options, data=data))
        assert ended.exit_code == 0, ended.stderr
        assert json.loads(ended.stdout)["skipped_samples"] == 3
        told = [line for line in ended.stderr.splitlines() if "skipped" in line]
        assert sorted(line.split(":")[1] for line in told) == [
            " skipped class0/000.png of the training data",
            " skipped class0/000.png of the validation data",
            " skipped class1/006.png of the training data",
        ]
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_nothing_but_damaged_images(run: Run, ground: Path, data: Path, tmp_path: Path) -> None:
    for split, says in (("train", "of 4 images only"), ("validation", "6 cannot be decoded")):
        for path in (data / split).rglob("*.png"):
            path.write_bytes(b"")
        ended = run(*command(ground, tmp_path / split, "--skip-corrupt", data=data))
        assert ended.exit_code == DATA, ended.stderr
        assert "error[data-unreadable]: " in ended.stderr
        assert says in ended.stderr


def test_images_of_every_kind(run: Run, ground: Path, data: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    whole = Image.fromarray(pixels)
    images = [whole.convert(kind) for kind in ("1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr")]
    images += [whole.convert("L").convert(kind) for kind in ("I", "F")]
    images.append(Image.fromarray(pixels[..., 0].astype(np.uint16) * 257))
    for path, image in zip(sorted((data / "train").rglob("*.png")), images, strict=False):
        content = BytesIO()
        kind = {"CMYK": "JPEG", "YCbCr": "JPEG", "F": "TIFF", "I": "TIFF"}.get(image.mode, "PNG")
        image.save(content, kind)
        path.write_bytes(content.getvalue())
    ended = run(*command(ground, tmp_path / "run", "--max-steps", 4, data=data))
    assert ended.exit_code == 0, ended.stderr


@pytest.mark.slow
def test_a_large_image_is_read(run: Run, ground: Path, data: Path, tmp_path: Path) -> None:
    content = BytesIO()
    Image.new("L", (9600, 9600)).save(content, "PNG")  # 92 million pixels: Pillow warns of these
    (data / "train" / FIRST).write_bytes(content.getvalue())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ended = run(*command(ground, tmp_path / "run", "--max-steps", 4, data=data))
    assert ended.exit_code == 0, ended.stderr
