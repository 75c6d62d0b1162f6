"""Images that change between a run and its resume; and copies of them, which are the same."""

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scalenet_cli.commands.finetune import finetune
from scalenet_cli.errors import ImageUnreadable, RunDiffers
from scalenet_cli.tasks.image_classification.data.fingerprint import content_record
from scalenet_cli.tasks.image_classification.data.splits import open_split
from scalenet_cli.tasks.requests import FinetuneOptions
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.run_training import Work
from tests.training.runs import PLAIN, Listener, contents, slow, write_data

ONE_STEP = {**PLAIN, "max_steps": 1, "batch_size": 4}
IMAGE = Path("train", "class0", "000.png")
NEW = 4_000_000_000  # some other time


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("images") / "data", train=8, val=5)


@pytest.fixture(scope="module")
def runs(bundle: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of a step: ``plain``, and ``digest``, which began with --data-digest."""
    folder = tmp_path_factory.mktemp("runs")
    go_on(bundle, images, folder / "plain")
    go_on(bundle, images, folder / "digest", digest=True)
    assert contents(folder / "plain").keys() == contents(folder / "digest").keys()
    return folder


def go_on(bundle: Path, data: Path, run: Path, *, digest: bool = False) -> list[str]:
    """Starts or resumes a run; returns the notes."""
    listener = Listener()
    options = FinetuneOptions(
        settings=ONE_STEP, device="cpu", work=Work(workers=0), resume=run.exists()
    )
    finetune(bundle, DataOptions(str(data), digest=digest), run, options, listener)
    return listener.notes


def rewritten(data: Path) -> None:
    """As many bytes, and the time as it was: only reading tells."""
    path = data / IMAGE
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewritten_now(data: Path) -> None:
    """As many bytes, at another time."""
    rewritten(data)
    touched(data)


def touched(data: Path) -> None:
    """The same bytes at another time, as a copy has them."""
    os.utime(data / IMAGE, (NEW, NEW))


def of_another_size(data: Path) -> None:
    """As with another encoder."""
    pixels = np.zeros((16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data / IMAGE)


TIMES = "train data: names and sizes are those that the run began with, but modification times are"
OTHER_SIZES = "train data: files of other sizes"
OTHER_CONTENT = "train data: images of other content"


@pytest.mark.parametrize(
    ("change", "began", "asked", "says"),
    [
        (of_another_size, "plain", False, OTHER_SIZES),
        slow(of_another_size, "digest", False, OTHER_SIZES),
        (rewritten_now, "digest", False, OTHER_CONTENT),
        slow(rewritten, "digest", True, OTHER_CONTENT),
    ],
)
def test_other_images_are_refused(
    bundle: Path, images: Path, runs: Path, tmp_path: Path, change: Callable[[Path], None],
    began: str, asked: bool, says: str,
) -> None:  # fmt: skip
    data = Path(shutil.copytree(images, tmp_path / "data"))
    run = Path(shutil.copytree(runs / began, tmp_path / "run"))
    change(data)
    before = contents(run)
    with pytest.raises(RunDiffers, match=says) as raised:
        go_on(bundle, data, run, digest=asked)
    assert raised.value.hint == "put the data back as they were, or choose another -o"
    assert contents(run) == before


def test_copied_images_are_the_same(bundle: Path, images: Path, runs: Path, tmp_path: Path) -> None:
    """A copy has other times: a note where nothing tells more, silence where the bytes do."""
    data = Path(shutil.copytree(images, tmp_path / "data"))
    assert go_on(bundle, data, runs / "plain") == []
    touched(data)
    (told,) = go_on(bundle, data, runs / "plain")
    assert told.startswith(TIMES)
    assert go_on(bundle, data, runs / "digest") == []


def test_nothing_to_compare_with_is_told(
    bundle: Path, images: Path, runs: Path, tmp_path: Path
) -> None:
    """A run that began without a digest, or with an earlier version, goes on."""
    run = Path(shutil.copytree(runs / "plain", tmp_path / "run"))
    says = "the run was begun without --data-digest"
    assert go_on(bundle, images, run, digest=True)[-1].startswith(says)
    record = json.loads((run / "run.json").read_text())
    for key in ("digest", "recipe", "contents"):
        del record[key]
    (run / "run.json").write_text(json.dumps(record))
    assert go_on(bundle, images, run) == []
    assert go_on(bundle, images, run, digest=True)[-1].startswith(says)


def records(data: Path | str, dataset: str = "", split: str = "train", **more: Any) -> list[Any]:
    opened = open_split(DataOptions(str(data), dataset), split, **more)
    return [content_record(opened, read=read) for read in (False, True)]


def pack(folder: Path, tar: Path) -> None:
    with tarfile.open(tar, "w") as file:
        file.add(folder, arcname=".")


def test_images_in_a_tar(images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    tar = tmp_path / "train.tar"
    pack(data / "train", tar)
    cheap, full = records(tar)
    os.utime(tar, (NEW, NEW))
    later, _ = records(tar)
    assert (later.sizes, later.times) == (cheap.sizes, later.times)
    assert later.times != cheap.times
    rewritten(data)
    pack(data / "train", tar)
    other, changed = records(tar)
    assert other.sizes == cheap.sizes
    assert changed.content != full.content
    of_another_size(data)
    pack(data / "train", tar)
    assert records(tar)[0].sizes != cheap.sizes


@pytest.mark.slow
def test_images_of_a_hugging_face_data_set(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    data = Path(shutil.copytree(images, tmp_path / "data"))
    name = f"hfds/{data}"
    cheap, full = records(tmp_path / "cache", name)
    assert records(tmp_path / "cache", name) == [cheap, full]
    rewritten_now(data)
    other, changed = records(tmp_path / "other", name)
    assert changed.content != full.content
    assert other.times != cheap.times


def test_pixels_of_a_torchvision_data_set(tmp_path: Path) -> None:
    """They are in memory anyway, so they are compared whenever a run is resumed."""
    write_mnist(tmp_path, np.zeros((3, 28, 28), dtype=np.uint8))
    cheap, full = records(tmp_path, "torch/mnist")
    assert cheap.times is None
    write_mnist(tmp_path, np.ones((3, 28, 28), dtype=np.uint8))
    other, changed = records(tmp_path, "torch/mnist")
    assert (other.sizes != cheap.sizes, changed.content != full.content) == (True, True)


def write_mnist(root: Path, pixels: "np.ndarray[Any, Any]") -> None:
    """MNIST's own files, with three images of the classes 0, 1, 2."""
    raw = root / "MNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for split in ("train", "t10k"):
        header = b"".join(n.to_bytes(4, "big") for n in (2051, *pixels.shape))
        (raw / f"{split}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (2049).to_bytes(4, "big") + (3).to_bytes(4, "big") + bytes([0, 1, 2])
        (raw / f"{split}-labels-idx1-ubyte").write_bytes(labels)


def test_a_link_to_nothing_is_left_to_the_training(images: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(images, tmp_path / "data"))
    (data / IMAGE).unlink()
    (data / IMAGE).symlink_to("nowhere.png")
    there, _ = records(images)
    cheap, full = records(data)
    assert None not in (cheap.sizes, full.content)
    assert cheap.sizes != there.sizes


def test_an_image_that_cannot_be_opened(images: Path, tmp_path: Path) -> None:
    """A link in a circle; permissions are no matter to root, who may run these tests."""
    data = Path(shutil.copytree(images, tmp_path / "data"))
    (data / IMAGE).unlink()
    (data / IMAGE).symlink_to(IMAGE.name)
    with pytest.raises(ImageUnreadable, match=r"cannot be read: .*levels of symbolic links"):
        records(data)
