"""Data sets by timm's names: folders and streams made here, opened without a network."""

import io
import json
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from timm.data import create_dataset

from scalenet_cli.errors import (
    ClassesDiffer,
    DataNotFound,
    DataUnreadable,
    MissingExtra,
    OptionError,
    ScalenetError,
)
from scalenet_cli.tasks.image_classification.data import readers
from scalenet_cli.tasks.image_classification.data.splits import Split, open_split
from scalenet_cli.training.data import DataOptions
from tests.images import write_images, write_tar

CLASSES = [f"c{n}" for n in range(3)]
pytestmark = [
    # timm's and webdataset's own readers leave closing files to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data" / "val", CLASSES, 8).parent


def samples_of(split: Split) -> list[tuple[bytes, int]]:
    return [(image.tobytes(), target) for image, target in map(split.read, range(len(split)))]


def test_tars_and_folders_hold_the_same_samples(folder: Path, tmp_path: Path) -> None:
    expected = open_split(DataOptions(str(folder)), "validation")
    tar = write_tar(tmp_path / "val.tar", folder / "val")
    (tmp_path / "outer").mkdir()
    with tarfile.open(tmp_path / "outer" / "val.tar", "w") as outer:  # a tar of tars
        outer.add(tar, arcname="part.tar")
    for data in (tar, tmp_path / "outer" / "val.tar", tmp_path / "outer"):
        found = open_split(DataOptions(str(data)), "validation")
        assert samples_of(found) == samples_of(expected)
        assert (found.classes, found.targets()) == (expected.classes, expected.targets())
        assert [found.name(n) for n in range(8)] == [expected.name(n) for n in range(8)]


def test_a_tar_that_ends_early_has_a_damaged_last_image(folder: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "val.tar", folder / "val")
    whole = open_split(DataOptions(str(tar)), "validation")
    last = max(whole.source.members, key=lambda member: member.offset)
    tar.write_bytes(tar.read_bytes()[: last.offset + 20])
    with pytest.raises((OSError, SyntaxError)):
        samples_of(whole)


def test_the_pickled_index_beside_a_tar_is_not_read(folder: Path, tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "val.tar", folder / "val")
    (tmp_path / "_val_tarinfos.pickle").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    assert len(open_split(DataOptions(str(tar)), "validation")) == 8


@pytest.mark.parametrize("name", ["torch/image_folder", "torch/folder"])
def test_torchvision_folders_have_splits_too(folder: Path, name: str) -> None:
    found = open_split(DataOptions(str(folder), dataset=name), "validation")
    assert len(found) == 8
    assert found.classes == {"c0": 0, "c1": 1, "c2": 2}
    assert found.name(0).startswith("c0/")


def test_a_torchvision_data_set(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    for kind in ("t10k", "train"):
        header = struct.pack(">IIII", 2051, 7, 28, 28)
        (raw / f"{kind}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = bytes(range(7))
        (raw / f"{kind}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 2049, 7) + labels)
    found = open_split(DataOptions(str(tmp_path), dataset="torch/mnist"), "validation", channels=1)
    assert samples_of(found) == [(pixels[n].tobytes(), n) for n in range(7)]
    assert len(found.classes) == 10


def test_a_torchvision_data_set_is_not_downloaded(tmp_path: Path) -> None:
    options = DataOptions(str(tmp_path), dataset="torch/cifar10")
    with pytest.raises(DataUnreadable, match="not found or corrupted"):
        open_split(options, "validation")


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_hugging_face_data_in_a_local_folder(folder: Path, tmp_path: Path, kind: str) -> None:
    datasets = pytest.importorskip("datasets")
    expected = open_split(DataOptions(str(folder)), "validation")
    if kind == "parquet":
        rows = [{"image": expected.read(n)[0], "label": expected.targets()[n]} for n in range(8)]
        features = datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)}
        )
        made = datasets.Dataset.from_list(rows, features=features)
        folder = tmp_path / "made"
        folder.mkdir()
        made.to_parquet(folder / "validation-00000.parquet")
    options = DataOptions(str(tmp_path / "cache"), dataset=f"hfds/{folder}")
    found = open_split(options, "validation")
    assert samples_of(found) == samples_of(expected)
    assert found.classes == expected.classes
    assert found.name(0)
    with pytest.raises(DataUnreadable, match="test"):
        open_split(options, "test")

    (tmp_path / "map.txt").write_text("x\nc2\nc1\nc0\n")
    mapped = DataOptions(options.data, options.dataset, class_map=str(tmp_path / "map.txt"))
    assert open_split(mapped, "validation").read(0)[1] == 3
    (tmp_path / "map.txt").write_text("c0\nc1\n")
    with pytest.raises(ClassesDiffer, match="lacks 1 of 3 classes, such as c2"):
        open_split(mapped, "validation")


def test_hugging_face_data_without_their_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "find_spec", lambda _: None)
    with pytest.raises(MissingExtra, match="needs the package datasets"):
        open_split(DataOptions("", dataset="hfds/x"), "validation")


def write_shards(root: Path, *, label: str = "") -> list[tuple[bytes, int]]:
    """Two shards of a webdataset with nine samples, and what is in them."""
    root.mkdir()
    random, samples = np.random.default_rng(0), []
    for shard in range(2):
        with tarfile.open(root / f"x-val-{shard:04d}.tar", "w") as tar:
            for n in range(4 + shard):
                pixels = random.integers(0, 256, (9, 11, 3), dtype=np.uint8)
                image, target = Image.fromarray(pixels), (3 * n + shard) % 7
                content = io.BytesIO()
                image.save(content, "png")
                sidecar = json.dumps({label: target}).encode() if label else b"%d" % target
                add(tar, f"d/{shard}{n}.png", content.getvalue())
                add(tar, f"d/{shard}{n}.{'json' if label else 'cls'}", sidecar)
                samples.append((pixels.tobytes(), target))
    return samples


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def write_info(root: Path, label: str = "", names: tuple[str, ...] = ()) -> None:
    names = names or ("x-val-0000.tar", "x-val-0001.tar")
    entry = {
        "name": "validation", "num_samples": 9, "filenames": names, "shard_lengths": [4, 5],
        "alt_label": label,
    }  # fmt: skip
    (root / "_info.json").write_text(json.dumps({"splits": {"validation": entry}}))


@pytest.mark.parametrize("label", ["", "kind"])
def test_a_webdataset_holds_what_timm_finds_in_it(tmp_path: Path, label: str) -> None:
    expected = write_shards(tmp_path / "w", label=label)
    write_info(tmp_path / "w", label)
    options = DataOptions(str(tmp_path / "w"), dataset="wds/x")
    found = open_split(options, "validation")
    assert samples_of(found) == expected
    assert found.name(4) == "d/10.png"
    stream = create_dataset("wds/x", str(tmp_path / "w"), split="validation")
    assert [(image.tobytes(), int(target)) for image, target in stream] == expected
    if not label:
        by_pattern = open_split(options, "x-val-{0000..0001}.tar")
        assert samples_of(by_pattern) == expected
        assert len(open_split(options, "x-val-0001.tar")) == 5


def drop_labels(root: Path) -> None:
    with tarfile.open(root / "x-val-0000.tar", "w") as tar:
        add(tar, "a.png", b"")


def cut(root: Path) -> None:
    (root / "x-val-0000.tar").write_bytes(b"no tar at all" * 100)


BAD_SHARDS: list[tuple[Callable[[Path], object], str]] = [
    (lambda root: write_info(root, names=("../x.tar",)), "outside the folder"),
    (lambda root: write_info(root, names=("/etc/x.tar",)), "outside the folder"),
    (lambda root: write_info(root, names=("gone.tar",)), "the shard is missing"),
    (lambda root: (root / "_info.json").write_text("{"), "cannot be read"),
    (lambda root: (root / "_info.json").write_text("[]"), "cannot be read"),
    (lambda root: (root / "_info.json").write_text('{"splits": {}}'), "no _info.json tells"),
    (lambda root: (root / "_info.json").unlink(), "no _info.json tells"),
    (drop_labels, "the sample a has no .cls"),
    (cut, "the shard cannot be read"),
]


@pytest.mark.parametrize(("damage", "says"), BAD_SHARDS, ids=[says for _, says in BAD_SHARDS])
def test_a_webdataset_that_is_damaged(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    write_shards(tmp_path / "w")
    write_info(tmp_path / "w")
    damage(tmp_path / "w")
    with pytest.raises((DataNotFound, DataUnreadable), match=says):
        open_split(DataOptions(str(tmp_path / "w"), dataset="wds/x"), "validation")


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("hfids/food101", DataUnreadable, "streams"),
        ("tfds/mnist", DataUnreadable, "streams"),
        ("imagenet", OptionError, "is no name of a data set"),
        ("foo/imagenet", OptionError, "is no name of a data set"),
        ("torch/", OptionError, "is no name of a data set"),
        ("torch/nothing", DataUnreadable, "Unknown torchvision dataset nothing"),
        ("hfds/nobody/nothing-of-this-name", DataUnreadable, "no images can be read"),
    ],
)
def test_names_that_cannot_be_opened(
    tmp_path: Path, name: str, error: type[ScalenetError], says: str
) -> None:
    with pytest.raises(error, match=says):
        open_split(DataOptions(str(tmp_path), dataset=name), "validation")


def test_a_class_map_is_never_ignored(tmp_path: Path) -> None:
    options = DataOptions(str(tmp_path), dataset="wds/x", class_map="map.txt")
    with pytest.raises(OptionError, match="--class-map is for folders"):
        open_split(options, "validation")


def test_a_sliver_is_not_resized_into_gigabytes(tmp_path: Path) -> None:
    write_images(tmp_path, CLASSES, 3)
    Image.new("RGB", (1, 30_000)).save(tmp_path / "c0" / "sliver.png")
    split = open_split(DataOptions(str(tmp_path)), "validation")
    with pytest.raises(ValueError, match="1 x 30000 pixels"):
        [split.read(index) for index in range(len(split))]
