"""`eval` with options, files and targets that cannot be used."""

import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from scalenet_cli.files import staged_file
from scalenet_cli.tasks import result_files
from tests.cli.helpers import DATA, THRESHOLD, USAGE, Run, refuse, write_bundle, write_decoder
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


@pytest.mark.sample(5)
@pytest.mark.parametrize(
    "text",
    ["", " ", "top1", "top1=", "top1=x", "top2=5", "top1=50,", "top1=50,top1=60", "top1=-1",
     "top1=101", "top1=nan", "loss=-0.1", "top1=5_0", "82.5", "top1=82,5", "top1=\u0665"],
)  # fmt: skip
def test_a_threshold_that_cannot_be(denied: Denied, tmp_path: Path, text: str) -> None:
    flags = (f"--fail-under={text}",)
    denied("option", "--fail-under", "hint:", status=USAGE, flags=flags, data=tmp_path / "nowhere")


def test_all_missed_thresholds_are_told_after_the_report(
    run: Run, checkpoint: Path, images: Path
) -> None:
    arguments = ("eval", checkpoint, "--data", images, *OPTIONS["vit"])
    result = run(*arguments, "--fail-under", "top1=100,top5=100,loss=0.01", "--json")
    assert result.exit_code == THRESHOLD
    assert '"top5": 100.0' in result.stdout
    assert "error[threshold-missed]: top1 is " in result.stderr
    assert "; loss is " in result.stderr
    assert "top5 is" not in result.stderr  # met exactly
    assert run(*arguments, "--fail-under", "top1=0,loss=1000").exit_code == 0


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mean", "0,0"), "--mean is (0.0, 0.0), but the model takes 3 numbers"),
        (("--mean", "a,b,c"), "--mean a,b,c is no list of numbers"),
        (("--std", "1,0,1"), "it has to be above 0"),
        (("--std", "nan"), "--std"),
        (("--crop-pct", "0"), "from 0.05 to 4.0"),
        (("--crop-pct", "nan"), "from 0.05 to 4.0"),
        (("--crop-mode", "middle"), "there are center, border, squash"),
        (("--interpolation", "cubic"), "there are nearest, bilinear, bicubic"),
        (("--input-size", "32"), "not what the model takes: 3 x 16 x 16"),
        (("--input-size", "0"), "from 1 to 8192"),
        (("--dataset", "foo/x"), "is no name of a data set"),
        (("--confusion", "c.png"), "--confusion c.png has to end in .csv or .json"),
        (("--predictions", "p.json"), "has to end in .csv or .parquet"),
    ],
)
def test_an_option_that_cannot_be(denied: Denied, flags: tuple[str, ...], says: str) -> None:
    denied("option", says, status=USAGE, flags=flags)


def test_no_data_at_all(run: Run, tmp_path: Path, checkpoint: Path) -> None:
    says = ("--data is missing",)
    refuse(run, tmp_path, "eval", checkpoint, status=USAGE, code="option", says=says)


def test_a_device_that_is_not_there(denied: Denied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    says = ("--device cuda was asked for", "available: cpu")
    denied("device-unavailable", *says, status=USAGE, flags=("--device", "cuda"))


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("evil",)


def test_class_maps_that_are_none(
    denied: Denied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "map.pkl").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "disguised.txt").write_bytes(pickle.dumps(Evil()))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    (tmp_path / "gap.txt").write_text("a\n\nb\n")
    for name, says in (
        ("map.pkl", ".pkl, not .txt"),
        ("disguised.txt", "no UTF-8 text"),
        ("latin.txt", "no UTF-8 text"),
        ("twice.txt", "line 3 of the class map has a a second time"),
        ("gap.txt", "line 2 of the class map has nothing"),
    ):
        denied("data-unreadable", says, flags=("--class-map", tmp_path / name))
    denied("data-not-found", "is a folder", flags=("--class-map", tmp_path))
    denied("data-not-found", "no such class map", flags=("--class-map", "gone.txt"))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    ("option", "name"), [("--predictions", "p.csv"), ("--confusion", "c.json")]
)
def test_files_that_may_not_be_written(
    run: Run, denied: Denied, tmp_path: Path, checkpoint: Path, images: Path, option: str, name: str
) -> None:
    path = tmp_path / name
    path.write_text("precious")
    denied("output-exists", "add --force", status=USAGE, flags=(option, path))
    arguments = ("eval", checkpoint, "--data", images, *OPTIONS["vit"], option, path, "--force")
    assert run(*arguments).exit_code == 0
    assert path.read_text() != "precious"
    path.unlink()
    path.mkdir()
    denied("output-exists", "is a folder", status=USAGE, flags=(option, path, "--force"))
    denied("output-unwritable", "is no folder", flags=(option, tmp_path / "no" / name))
    path.rmdir()
    path.symlink_to(tmp_path / "nowhere")
    denied("output-exists", status=USAGE, flags=(option, path))


def test_one_file_for_two_results(denied: Denied, tmp_path: Path) -> None:
    flags = ("--predictions", tmp_path / "x.csv", "--confusion", tmp_path / "x.csv")
    denied("option", "name the same file", status=USAGE, flags=flags)


def test_a_disk_that_is_full_when_predictions_are_written(
    denied: Denied, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(staged_file, "fsync_path", full)
    for option, name in (("--predictions", "p.csv"), ("--confusion", "c.json")):
        flags = (option, tmp_path / name)
        denied("output-unwritable", "writing failed: No space left on device", flags=flags)


def test_parquet_without_its_library(denied: Denied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(result_files, "find_spec", lambda _: None)
    says = ("needs the package pyarrow", "pip install '.[parquet]'")
    denied("missing-extra", *says, flags=("--predictions", "p.parquet"))


def test_a_model_that_answers_nan(run: Run, tmp_path: Path, images: Path) -> None:
    _, model = write_classifier(tmp_path)
    with torch.no_grad():
        model.head.weight[2] = float("nan")
    path = tmp_path / "broken.safetensors"
    save_file(dict(model.named_parameters()), path)
    arguments = ("eval", path, "--data", images, *OPTIONS["vit"])
    says = ("10 of 10 images", "where: a/000.png", "--precision fp32")
    refuse(run, tmp_path, *arguments, status=DATA, code="loss-not-finite", says=says)


def test_targets_that_are_no_image_classifiers(run: Run, tmp_path: Path, images: Path) -> None:
    decoder = write_decoder(tmp_path / "llama")
    bundle = write_bundle(tmp_path, "qwen3")
    for target in (decoder, bundle):
        arguments = ("eval", target, "--data", images)
        says = ("a language model does not classify images", "has no records")
        refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=says)
    headless = ("eval", "timm:vit_tiny_patch16_224", "--random-weights", "--data", images)
    headless += ("--model-kwargs", "num_classes=0", "--model-kwargs", "depth=1")
    says = ("no classes",)
    refuse(run, tmp_path, *headless, status=USAGE, code="option", says=says)


def test_options_of_checkpoints_are_not_for_bundles(run: Run, tmp_path: Path, images: Path) -> None:
    arguments = ("eval", write_bundle(tmp_path), "--data", images, "--arch", "x")
    says = ("are not for bundles",)
    refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=says)


def test_preprocessing_of_a_stranger(run: Run, tmp_path: Path, images: Path) -> None:
    arguments = ("eval", write_classifier(tmp_path)[0], "--data", images, *OPTIONS["vit"])
    for given, says in (
        ("crop_pct=1e-9", "crop_pct of the model's preprocessing is 1e-09"),
        ("interpolation=os", "interpolation of the model's preprocessing is os"),
        ("std=0,0,0", "std of vit_base_patch16_224 is [0, 0, 0]"),
    ):
        code = "architecture-mismatch"
        extra = ("--model-kwargs", given)
        refuse(run, tmp_path, *arguments, *extra, status=DATA, code=code, says=(says,))


def test_a_greyscale_model_takes_colour_images(run: Run, tmp_path: Path, images: Path) -> None:
    target = ("timm:vit_tiny_patch16_224", "--random-weights", "--data", images)
    sizes = {"in_chans": 1, "img_size": 32, "depth": 1, "num_classes": 5}
    kwargs = [part for key, value in sizes.items() for part in ("--model-kwargs", f"{key}={value}")]
    assert run("eval", *target, *kwargs).exit_code == 0
    two = [part.replace("in_chans=1", "in_chans=2") for part in kwargs]
    says = ("the model takes 2 channels",)
    refuse(run, tmp_path, "eval", *target, *two, status=USAGE, code="option", says=says)


def test_the_images_are_of_every_mode(tmp_path: Path) -> None:
    modes = set()
    for path in write_images(tmp_path, "a", 6).rglob("*.*"):
        with Image.open(path) as image:
            modes.add(image.mode)
    assert modes == {"RGB", "L", "RGBA", "I;16", "P"}
