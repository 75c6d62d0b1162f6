"""``scalenet diagnose``: a report of numbers, plots and a page, or one clear error."""

import copy
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import nn
from torch.nn import functional as F

from scalenet_cli import SourceOptions, load
from scalenet_cli.diagnosis.diagnose import diagnose
from scalenet_cli.diagnosis.report import DiagnoseReport
from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.requests import DiagnoseOptions
from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    change_manifest,
    in_use,
    refuse,
    set_entry,
    snapshot,
)
from tests.images import write_images
from tests.laws.building import write_source
from tests.models import tiny_case
from tests.training.runs import write_bundle, write_data
from tests.training.texts import write_language_bundle, write_records, write_texts, write_tokenizer

PLOTS = {"gradients.png", "activations.png", "cka.png", "adapters.png", "instances.png"}
LENGTHS = 24


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in ``pictures`` and ``vit``, texts in ``texts`` and ``llama``; sources beside them."""
    folder = tmp_path_factory.mktemp("diagnose")
    write_data(folder / "pictures", train=5)
    write_bundle(folder / "vit")
    write_texts(folder / "texts")
    write_language_bundle(folder / "llama")
    return folder


def quick(root: Path, target: str, data: str, **how: Any) -> DiagnoseReport:
    chosen: dict[str, Any] = {"limit": 6, "skip": "none", "depths": 2, "device": "cpu", **how}
    against = chosen.pop("against", None)
    options = chosen.pop("options", None)
    return diagnose(root / target, root / data, against=against, options=options,
                    how=DiagnoseOptions(**chosen))  # fmt: skip


def test_a_report_of_images(root: Path, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "report"
    arguments = ("diagnose", root / "vit", "--data", root / "pictures", "-o", output)
    before = snapshot(root)
    result = run(*arguments, "--against", root / "vit-source", "--limit", 10, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((output / "report.json").read_text())
    assert {path.name for path in output.iterdir()} == set(report["files"])
    assert set(report["files"]) == {"report.json", "README.md", *PLOTS}
    for name in PLOTS:
        with Image.open(output / name) as image:
            assert image.format == "PNG"
            assert min(image.size) > 300
    assert (report["num_samples"], report["metric"]) == (10, "top1")
    assert [block["source"] for block in report["model"]["blocks"]] == [0, 0, 1, 1, 2, 2]
    assert [block["source"] for block in report["against"]["blocks"]] == [0, 1, 2]
    assert len(report["cka"]["linear"]) == 6
    assert report["cka"]["linear"][0][0] == pytest.approx(1)  # one block, before it is copied
    assert {row["ratio"] for row in report["adapters"]} == {0.0}  # fresh
    skipped = [row["position"] for row in report["ablations"] if row["skipped"] is not None]
    assert skipped == [1, 3, 5]
    assert {row["without_adapters"]["loss"] for row in report["ablations"]} == {
        report["model"]["score"]["loss"]
    }
    page = (output / "README.md").read_text()
    assert set(re.findall(r"!\[[\w ]+\]\(([\w.]+)\)", page)) == PLOTS
    assert snapshot(root) == before
    assert_output_is_kept(run, arguments, output)


def write_three(_: DiagnoseReport, folder: Path) -> tuple[str, ...]:
    """In the place of plots, which take their time."""
    names = ("gradients.png", "activations.png", "cka.png")
    for name in names:
        (folder / name).touch()
    return names


def assert_output_is_kept(run: Run, arguments: tuple[object, ...], output: Path) -> None:
    """A report is replaced with --force only, and anything else never."""
    quick = (*arguments, "--limit", 4, "--depths", 1, "--skip", "none")
    folder = output.parent
    says = ("add --force to replace a report",)
    refuse(run, folder, *quick, status=USAGE, code="output-exists", says=says)
    numbers = (output / "report.json").read_bytes()
    with patch("scalenet_cli.diagnosis.plots.draw_plots", write_three):
        with in_use(output):
            refuse(run, folder, *quick, "--force", status=DATA, code="output-in-use")
        replaced = run(*quick, "--force")
    assert replaced.exit_code == 0, replaced.stderr
    assert f"written to {output}: report.json, README.md, gradients.png" in replaced.stdout
    assert (output / "report.json").read_bytes() != numbers
    assert not (output / "instances.png").exists()
    assert "Nothing was taken away" in (output / "README.md").read_text()
    assert [path.name for path in folder.iterdir()] == [output.name]
    (output / "mine.txt").touch()
    says = ("holds more than a report",)
    refuse(run, folder, *quick, "--force", status=USAGE, code="output-exists", says=says)


def test_a_report_of_texts(root: Path, run: Run, tmp_path: Path) -> None:
    output = tmp_path / "report"
    result = run(
        "diagnose", root / "llama", "--data", root / "texts", "-o", output, "--limit", 7,
        "--batch-size", 3, "--max-length", LENGTHS, "--template", "none", "--skip", "all",
        "--depths", 3,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    report = json.loads((output / "report.json").read_text())
    assert "7 sequences of " in result.stdout
    assert "perplexity" in result.stdout
    assert report["metric"] == "perplexity"
    assert report["preparation"] == {"max_length": LENGTHS, "template": "none"}
    assert report["notes"] == []
    score = report["model"]["score"]
    assert score["perplexity"] == pytest.approx(torch.tensor(score["loss"]).exp().item(), rel=1e-5)
    assert report["against"] is None
    assert report["cka"]["against"] == str(root / "llama")
    assert [row[at] for at, row in enumerate(report["cka"]["linear"])] == pytest.approx([1] * 4)
    assert all(row["skipped"]["perplexity"] > 1 for row in report["ablations"])
    assert [len(row["instances"]) for row in report["model"]["gradients"]] == [2, 2]


def test_skipped_instances_score_like_models_made_by_hand(root: Path) -> None:
    report = quick(root, "vit", "pictures", skip="all", limit=21, batch_size=21)
    model: Any = load(root / "vit").float()
    images, targets = pictures(root / "pictures" / "validation")
    assert report.model.score.top1 == top1(model, images, targets)
    assert len(report.ablations) == 6
    for row in report.ablations[::2]:
        shorter = copy.deepcopy(model)
        kept = [block for at, block in enumerate(model.blocks) if at != row.position]
        shorter.blocks = nn.Sequential(*kept)
        assert row.skipped is not None
        assert row.skipped.top1 == top1(shorter, images, targets)
        with torch.no_grad():
            loss = float(F.cross_entropy(shorter(images), targets))
        assert row.skipped.loss == pytest.approx(loss, rel=1e-5)


def pictures(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of a split, as timm prepares them for a ViT."""
    half = (0.5, 0.5, 0.5)
    prepare = create_transform(
        (3, 16, 16), mean=half, std=half, crop_pct=0.9, interpolation="bicubic"
    )
    found = sorted(folder.rglob("*.png"))
    images = [prepare(Image.open(path).convert("RGB")) for path in found]
    return torch.stack(images), torch.tensor([int(path.parent.name[-1]) for path in found])


@torch.no_grad()
def top1(model: nn.Module, images: torch.Tensor, targets: torch.Tensor) -> float:
    return 100 * int((model(images).argmax(1) == targets).sum()) / len(targets)


def test_an_instance_behind_closed_gates_gives_nothing(root: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "identity", start="identity")
    report = quick(root, tmp_path / "identity", "pictures", skip="new", against=root / "vit-source")
    assert report.against is not None
    for row, base in zip(report.model.gradients, report.against.gradients, strict=True):
        assert [part.norm > 0 for part in row.instances] == [True, False]
        assert row.norm == row.instances[0].norm == pytest.approx(base.norm, rel=1e-5)
    first = json.loads(report.model_dump_json())["model"]["gradients"][0]
    assert first["instances"][1]["cosine"] is None
    assert {row.gate for row in report.adapters if row.ordinal} == {None, 0.0}
    assert all(row.skipped == report.model.score for row in report.ablations if row.ordinal)


def test_a_checkpoint_alone(root: Path) -> None:
    report = quick(root, "vit-source", "pictures", skip="new")
    assert report.adapters == report.ablations == ()
    assumed, told = report.notes
    assert assumed.startswith(
        "the model has no class names, and the data's (class0, class1, class2"
    )
    assert told == "the target has no new instances: --skip all skips pretrained ones"
    assert [len(row.instances) for row in report.model.gradients] == [1, 1, 1]
    assert all(row.norm == row.instances[0].norm > 0 for row in report.model.gradients)


def test_a_run_is_its_best_bundle_and_fewer_samples_are_told(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "vit", tmp_path / "run" / "best")
    how = {"limit": 99, "cka_tokens": 3, "preprocessing": {"mean": (0, 0, 0)}}
    one, other = (quick(root, name, "pictures", **how) for name in ("vit", tmp_path / "run"))
    assert one.notes == other.notes
    assert one.notes[1:] == ("the data have 21 samples, fewer than --limit",)
    assert (one.cka.num_rows, one.cka.tokens) == (63, 3)
    assert one.model.gradients == other.model.gradients
    assert one.preparation["mean"] == (0, 0, 0)


@pytest.fixture
def denied(run: Run, root: Path, tmp_path: Path) -> Callable[..., str]:
    """`diagnose` refuses a target and data below ``root``."""

    def refused(
        target: object, data: object, code: str, *says: str, status: int = USAGE,
        flags: tuple[object, ...] = (),
    ) -> str:  # fmt: skip
        given = () if data is None else ("--data", root / str(data))
        output = tmp_path / "report"
        arguments = ("diagnose", root / str(target), *given, "-o", output, *flags)
        return refuse(run, tmp_path, *arguments, status=status, code=code, says=says)

    return refused


Denied = Callable[..., str]


def test_models_that_do_not_go_together(denied: Denied, root: Path, tmp_path: Path) -> None:
    swin = write_source(tiny_case("swin"), tmp_path / "swin")
    says = ("takes images of 3 x 16 x 16, but --against", "of 3 x 32 x 32", "same pixels")
    denied("vit", "pictures", "option", *says, flags=("--against", swin))
    says = ("is an image classifier, but --against", "is a language model")
    denied("vit", "pictures", "option", *says, flags=("--against", root / "llama"))
    other = write_source(tiny_case("llama_tied"), tmp_path / "other")
    write_tokenizer(other)
    file = other / "tokenizer.json"
    file.write_text(file.read_text().replace('"w10": 10', '"w11": 10', 1).replace(
        '"w11": 11', '"w10": 11', 1))  # fmt: skip
    says = ("do not make the same tokens", "--tokenizer")
    denied("llama", "texts", "option", *says, flags=("--against", other))
    denied("vit", "pictures", "checkpoint-not-found", "nowhere", status=DATA,
           flags=("--against", tmp_path / "nowhere"))  # fmt: skip


def test_data_that_do_not_fit(denied: Denied, tmp_path: Path) -> None:
    others = write_images(tmp_path / "others" / "val", "abc", 6).parent
    says = ("3 classes, but the model has 5",)
    denied("vit", others, "classes-differ", *says, status=DATA)
    (tmp_path / "empty" / "val").mkdir(parents=True)
    denied("vit", tmp_path / "empty", "data-unreadable", status=DATA)
    denied("vit", tmp_path / "nowhere", "data-not-found", status=DATA)
    denied("vit", None, "option", "--data is missing")
    denied("llama", None, "option", "--data is missing")
    records = write_records(tmp_path / "empty.jsonl", [])
    denied("llama", records, "data-unreadable", "no record", status=DATA)
    one = write_records(tmp_path / "one.jsonl", [{"text": "w5 w6 w7"}])
    denied("llama", one, "data-unreadable", "two samples or more", status=DATA)
    denied("vit", one, "option", "is a file of text")
    denied("llama", "pictures", "option", "does not classify images")


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("target", "data", "flags", "says"),
    [
        ("llama", "texts", ("--mean", "0,0,0"), "--mean is for image classifiers"),
        ("llama", "texts", ("--crop-pct", 1), "--crop-pct is for image classifiers"),
        ("llama", "texts", ("--skip-corrupt",), "--skip-corrupt is for image classifiers"),
        ("vit", "pictures", ("--max-length", 9), "--max-length is for language models"),
        ("vit", "pictures", ("--template", "none"), "--template is for language models"),
        ("vit", "pictures", ("--arch", "vit_tiny_patch16_224"), "are for checkpoints"),
        ("vit", "pictures", ("--cka-tokens", 18), "has only 17 tokens"),
        ("vit", "pictures", ("--limit", 21, "--cka-tokens", 10**8), "lower --limit"),
        ("vit", "pictures", ("--input-size", 32), "--input-size"),
        ("llama", "texts", ("--max-length", 65), "made for 64 tokens"),
        ("llama", "texts/train.jsonl", ("--split", "train"), "is for data with splits"),
    ],
)
def test_options_that_cannot_be(
    denied: Denied, target: str, data: str, flags: tuple[object, ...], says: str
) -> None:
    denied(target, data, "option", says, flags=(*flags, "--device", "cpu"))


def test_samples_and_features_of_both_models_have_to_fit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six images of 3 KiB, and six features of 32 channels per block, of either model."""
    monkeypatch.setattr("scalenet_cli.measure.diagnosed_model.MAX_HELD_BYTES", 30_000)
    quick(root, "vit-source", "pictures")
    with pytest.raises(OptionError, match="for both models") as raised:
        quick(root, "vit", "pictures", against=root / "vit-source")
    assert raised.value.hint == "lower --limit"


def test_values_below_the_least() -> None:
    for name, value in (("limit", 1), ("depths", 0), ("cka_tokens", 0), ("batch_size", 0)):
        with pytest.raises(Exception, match=f"{name} is {value}, and has to be at least"):
            DiagnoseOptions(**{name: value})


def test_one_process_only(denied: Denied, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "head")
    denied("vit", "pictures", "option", "runs in one process")


def test_a_damaged_image_and_one_too_few(denied: Denied, root: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(root / "pictures" / "validation", data / "validation")
    (data / "validation" / "class0" / "000.png").write_bytes(b"none")
    denied("vit", data, "image-unreadable", "class0/000.png", status=DATA)
    report = quick(root, "vit", data, skip_corrupt=True, limit=21, batch_size=4)
    assert report.num_samples == 20
    assert "1 images cannot be decoded and were left out" in report.notes


def test_a_model_without_an_answer(denied: Denied, tmp_path: Path) -> None:
    case = tiny_case("vit")
    next(case.model.parameters()).data.fill_(float("nan"))
    broken = write_source(case, tmp_path / "broken")
    denied(broken, "pictures", "loss-not-finite", "where: blocks.0", status=DATA)


def test_a_damaged_bundle_and_nothing_to_write_to(
    denied: Denied, root: Path, run: Run, tmp_path: Path
) -> None:
    bundle = tmp_path / "damaged"
    shutil.copytree(root / "vit", bundle)
    change_manifest(bundle, set_entry("layout", 0, "sources", value=[0, 0, 0, 1, 2, 2]))
    denied(bundle, "pictures", "manifest-unreadable", status=DATA)
    arguments = ("diagnose", root / "vit", "--data", root / "pictures")
    missing = ("-o", tmp_path / "no" / "report")
    refuse(run, tmp_path, *arguments, *missing, status=DATA, code="output-unwritable")


@pytest.mark.slow
def test_source_options_are_for_whichever_is_a_checkpoint(root: Path, tmp_path: Path) -> None:
    state = tmp_path / "vit.pth"
    torch.save(tiny_case("vit").model.state_dict(), state)
    options = SourceOptions(model_kwargs={"num_heads": 2})
    report = quick(root, "vit", "pictures", against=state, options=options)
    same = quick(root, "vit", "pictures", against=root / "vit-source")
    assert report.against is not None
    assert same.against is not None
    assert report.against.gradients == same.against.gradients
