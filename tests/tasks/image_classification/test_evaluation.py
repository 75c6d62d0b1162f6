"""``scalenet eval`` against ten lines of plain timm, and against itself on several ranks."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm.utils
import torch
from timm.data import create_dataset, create_transform
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from typer.testing import Result

from scalenet_cli import EvalOptions, ScalenetError, SourceOptions, evaluate, expand_checkpoint
from tests.conftest import PLAN
from tests.images import OPTIONS, write_classifier, write_images, write_tar
from tests.models import ARCHITECTURES

Run = Callable[..., Result]
ImageNet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
pytestmark = [
    # timm's own readers, in the plain loop, leave closing files to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@torch.no_grad()
def plain(
    model: nn.Module, data: Path, size: int, batch_size: int, class_map: str = "", **changed: Any
) -> tuple[float, float, float]:
    """Top-1, top-5 and loss, as a script on timm would compute them."""
    mean, std = ImageNet if size == 32 else HALF
    config = {"mean": mean, "std": std, "crop_pct": 0.9, "interpolation": "bicubic", **changed}
    dataset = create_dataset("", root=str(data), split="validation", class_map=class_map)
    dataset.transform = create_transform((3, size, size), **config)
    sums = torch.zeros(3, dtype=torch.float64)
    for images, targets in DataLoader(dataset, batch_size):
        logits = model(images)
        top1, top5 = timm.utils.accuracy(logits, targets, topk=(1, 5))
        loss = F.cross_entropy(logits.double(), targets)
        sums += torch.stack([top1.double(), top5.double(), loss]) * len(targets)
    top1, top5, loss = (sums / len(dataset)).tolist()
    return top1, top5, loss


def report_of(run: Run, *arguments: object) -> dict[str, Any]:
    """The report that ``eval --json`` prints; images are read in this process."""
    result = run("eval", *arguments, "--json", "--workers", 0)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def assert_equal(report: dict[str, Any], expected: tuple[float, float, float]) -> None:
    top1, top5, loss = expected
    assert report["correct1"] == round(top1 * report["num_images"] / 100)
    assert report["correct5"] == round(top5 * report["num_images"] / 100)
    assert report["loss"] == pytest.approx(loss, rel=1e-6)


CASES = [
    ("vit", 5, 23, "folder"),
    ("vit", 5, 23, "tar"),
    ("vit", 3, 10, "folder"),
    ("vit", 11, 25, "folder"),
    ("swin", 7, 13, "folder"),
]


@pytest.mark.sample(3)
@pytest.mark.parametrize(("name", "num_classes", "count", "kind"), CASES)
def test_eval_equals_a_plain_timm_loop(
    run: Run, tmp_path: Path, name: str, num_classes: int, count: int, kind: str
) -> None:
    checkpoint, model = write_classifier(tmp_path, name, num_classes)
    data = write_images(tmp_path / "val", [f"c{n}" for n in range(num_classes)], count)
    data = write_tar(tmp_path / "val.tar", data) if kind == "tar" else tmp_path
    size = 32 if name == "swin" else 16
    report = report_of(run, checkpoint, "--data", data, "--batch-size", 4, *OPTIONS[name])
    assert (report["num_images"], report["num_classes"]) == (count, num_classes)
    assert_equal(report, plain(model, data, size, batch_size=7))
    if num_classes < 5:
        assert report["correct5"] == count


def test_every_override_is_applied(run: Run, tmp_path: Path) -> None:
    checkpoint, model = write_classifier(tmp_path)
    data = write_images(tmp_path / "val", "abcde", 9)
    for flags, changed in (
        (("--mean", "0,0,0", "--std", "1"), {"mean": (0, 0, 0), "std": (1, 1, 1)}),
        (("--crop-pct", "0.5", "--interpolation", "nearest"),
         {"crop_pct": 0.5, "interpolation": "nearest"}),
        (("--crop-mode", "squash"), {"crop_mode": "squash"}),
        (("--crop-mode", "border", "--input-size", "16"), {"crop_mode": "border"}),
    ):  # fmt: skip
        report = report_of(run, checkpoint, "--data", data, *OPTIONS["vit"], *flags)
        assert_equal(report, plain(model, tmp_path, 16, 2, **changed))


def test_a_model_of_any_size_takes_another_one(run: Run, tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 5)
    arguments = (checkpoint, "--data", tmp_path, "--input-size", 24, *OPTIONS["vit"])
    report = report_of(run, *arguments, "--model-kwargs", "dynamic_img_size=true")
    assert report["preprocessing"]["input_size"] == [3, 24, 24]


def test_a_subset_of_the_classes_by_a_class_map(run: Run, tmp_path: Path) -> None:
    checkpoint, model = write_classifier(tmp_path, num_classes=11)
    write_images(tmp_path / "val", ["n03", "n07", "other"], 11)
    class_map = tmp_path / "map.txt"
    class_map.write_text("".join(f"n{n:02d}\n" for n in range(11)))
    arguments = (checkpoint, "--data", tmp_path, "--class-map", class_map, *OPTIONS["vit"])
    report = report_of(run, *arguments)
    assert report["num_images"] == 8
    assert "1 folders are not in the class map and were left out: other" in report["notes"]
    assert_equal(report, plain(model, tmp_path, 16, 3, class_map=str(class_map)))


def test_a_bundle_equals_its_source_at_an_identity_start(run: Run, tmp_path: Path) -> None:
    checkpoint, model = write_classifier(tmp_path)
    data = write_images(tmp_path / "val", "abcde", 13)
    (tmp_path / "plan.yaml").write_text(PLAN.replace("copy", "identity"))
    options = SourceOptions(model_kwargs={"num_heads": 2})
    (tmp_path / "run").mkdir()
    best = tmp_path / "run" / "best"
    expand_checkpoint(checkpoint, tmp_path / "plan.yaml", best, options=options)
    for target in (tmp_path / "run", best):
        report = evaluate(target, data, how=EvalOptions(workers=0))
        assert_equal(report.model_dump(), plain(model, tmp_path, 16, 5))


def test_files_of_predictions_and_confusion(run: Run, tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 13)
    outputs = [tmp_path / name for name in ("p.csv", "p.parquet", "c.csv", "c.json")]
    for predictions, confusion in (outputs[0::2], outputs[1::2]):
        files = ("--predictions", predictions, "--confusion", confusion)
        arguments = (checkpoint, "--data", tmp_path, "--batch-size", 4, *files)
        report = report_of(run, *arguments, *OPTIONS["vit"])
        assert report["files"] == [str(confusion), str(predictions)]
    rows = list(csv.DictReader(outputs[0].open()))
    assert [row["file"] for row in rows][:3] == ["a/000.png", "a/005.png", "a/010.png"]
    assert sum(row["correct"] == "True" for row in rows) == report["correct1"]
    mean = sum(float(row["loss"]) for row in rows) / 13
    assert mean == pytest.approx(report["loss"], rel=1e-12)
    assert all(0 < float(row["probability"]) <= 1 for row in rows)

    parquet = pytest.importorskip("pyarrow.parquet").read_table(outputs[1]).to_pylist()
    assert [{key: str(value) for key, value in row.items()} for row in parquet] == rows
    content = json.loads(outputs[3].read_text())
    matrix = torch.tensor(content["matrix"])
    assert content["classes"] == list("abcde")
    assert (int(matrix.sum()), int(matrix.trace())) == (13, report["correct1"])
    for row in rows:
        matrix[int(row["target"]), int(row["prediction"])] -= 1
    assert not matrix.any()
    lines = list(csv.reader(outputs[2].open()))
    assert lines[0] == ["target", *"abcde"]
    assert [list(map(int, line[1:])) for line in lines[1:]] == content["matrix"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_corrupt_images_are_counted_and_left_out(run: Run, tmp_path: Path) -> None:
    checkpoint, model = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 12)
    expected = plain(model, tmp_path, 16, 4)
    (tmp_path / "val" / "c" / "zz.png").write_bytes(b"\x89PNG\r\n\x1a\n rest")
    whole = (tmp_path / "val" / "b" / "001.jpg").read_bytes()
    (tmp_path / "val" / "a" / "zz.jpg").write_bytes(whole[: len(whole) // 2])
    arguments = (checkpoint, "--data", tmp_path, "--skip-corrupt", *OPTIONS["vit"])
    report = report_of(run, *arguments, "--batch-size", 1)
    assert_equal(report, expected)
    assert (report["num_images"], report["num_corrupt"]) == (12, 2)
    assert [image["name"] for image in report["corrupt"]] == ["a/zz.jpg", "c/zz.png"]
    result = run("eval", *arguments)
    assert "corrupt: a/zz.jpg: " in result.stdout
    assert "2 images cannot be decoded" in result.stderr


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_narrow_types_answer_nearly_alike(tmp_path: Path, precision: Any) -> None:
    checkpoint, model = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 11)
    how = EvalOptions(precision=precision, channels_last=True)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    report = evaluate(checkpoint, tmp_path, how=how, options=options)
    assert report.loss == pytest.approx(plain(model, tmp_path, 16, 3)[2], rel=0.05)


def test_half_precision_weights_are_computed_in_float32(tmp_path: Path) -> None:
    _, model = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 7)
    state = {key: value.bfloat16() for key, value in model.state_dict().items()}
    torch.save(state, tmp_path / "half.pth")
    model.load_state_dict(state)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    report = evaluate(tmp_path / "half.pth", tmp_path, options=options)
    assert_equal(report.model_dump(), plain(model, tmp_path, 16, 3))


def test_random_weights_need_no_file_of_weights_that_can_be_read(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    arguments = {**dict(ARCHITECTURES["vit"].arguments), "num_classes": 2}
    config = {"architecture": ARCHITECTURES["vit"].name, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"damaged")
    images = write_images(tmp_path / "data" / "validation", ["a", "b"], 4)
    how, random = EvalOptions(workers=0), SourceOptions(random_weights=True)
    assert evaluate(folder, images.parent, how=how, options=random).num_images == 4
    with pytest.raises(ScalenetError, match="checkpoint-unreadable"):
        evaluate(folder, images.parent, how=how)


def test_a_limit_takes_every_class(tmp_path: Path) -> None:
    checkpoint, _ = write_classifier(tmp_path)
    write_images(tmp_path / "val", "abcde", 25)
    how = EvalOptions(limit=5, confusion=tmp_path / "c.json")
    evaluate(checkpoint, tmp_path, how=how, options=SourceOptions(model_kwargs={"num_heads": 2}))
    matrix = json.loads((tmp_path / "c.json").read_text())["matrix"]
    assert [sum(row) for row in matrix] == [1] * 5


def test_options_that_cannot_be(tmp_path: Path) -> None:
    for wrong in ({"limit": 0}, {"batch_size": 0}, {"workers": -1}):
        with pytest.raises(ScalenetError, match="has to be at least"):
            EvalOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ScalenetError, match="no preprocessing of timm's"):
        evaluate(
            write_classifier(tmp_path)[0],
            write_images(tmp_path / "val", "abcde", 5),
            how=EvalOptions(preprocessing={"crop": 1}),
            options=SourceOptions(model_kwargs={"num_heads": 2}),
        )
