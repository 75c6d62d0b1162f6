"""A run of an earlier version is read, goes on and is evaluated."""

import json
import shutil
from pathlib import Path

import pytest

from scalenet_cli import EvalOptions, evaluate
from tests.training.runs import PLAIN, metrics, train, write_data

# Version 0.1.0, whose recipes and records call the task `images`: 8 steps, interrupted after the
# fifth, so that its state is of the fourth. Beside it, the metrics of the same run to its end.
EARLIER = Path(__file__).parents[1] / "compat" / "vit_run"
WHOLE = EARLIER.with_name("vit_run_metrics.jsonl")
RECIPE = {**PLAIN, "epochs": 4, "batch_size": 4, "save_steps": 1, "train": ["adapters", "gates"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EARLIER, tmp_path / "run"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", train=8, val=5)


@pytest.mark.parametrize("recipe", [{}, RECIPE], ids=["its own recipe", "the recipe again"])
def test_it_goes_on(recipe: dict[str, object], run: Path, data: Path) -> None:
    assert json.loads((run / "run.json").read_text())["task"] == "images"
    assert "task: images" in (run / "recipe.yaml").read_text()
    report = train(run / "start", data, run, recipe, resume=True)
    assert report.steps == 8
    expected = [json.loads(line) for line in WHOLE.read_text().splitlines()]
    found = metrics(run)
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        # Kinds of processors add up in other orders.
        assert one == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_its_best_bundle_is_evaluated(run: Path, data: Path) -> None:
    report = evaluate(run, data, how=EvalOptions(workers=0, device="cpu"))
    best = json.loads((run / "best" / "manifest.json").read_text())["trained"]["metrics"]
    assert report.top1 == pytest.approx(best["top1"])
