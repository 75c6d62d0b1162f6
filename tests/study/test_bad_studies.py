"""Studies that do not fit their source or their data: refused before anything is written."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from scalenet_cli.cli.compare_table import show
from scalenet_cli.study.compare import CompareReport
from tests.study.helpers import PLAN, SCALENET, SWA, write_study


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("arms", "code", "says"),
    [
        (
            [{**SCALENET, "plan": {**PLAN, "shared": {"scope": {"stages": [3]}}}}],
            "scope-out-of-range",
            ["shared.scope.stages[0]", "study.yaml:"],
        ),
        ([SCALENET, {**SWA, "stage": 4}], "plan-schema", ["stage 4", "arms[1].stage"]),
        (
            [SCALENET, {"name": "b", "base": True, "settings": {"train": ["adapters"]}}],
            "option",
            ["train names adapters", "arms[1]"],
        ),
        (
            [SCALENET, {"name": "b", "base": True, "settings": {"batch_size": 18}}],
            "no-batch",
            ["17 samples", "a batch is 18", "arms[1]"],
        ),
        (
            [SCALENET, {"name": "b", "base": True, "settings": {"lr": -1}}],
            "plan-schema",
            ["greater than 0", "arms[1].settings.lr"],
        ),
        (
            [{"name": "a", "plan": "no/such"}],
            "unknown-recipe",
            ["no/such"],
        ),
        (
            [{"name": "a", "plan": "no.yaml"}],
            "plan-unreadable",
            ["no.yaml", "arms[0].plan"],
        ),
    ],
)
def test_an_arm_that_does_not_fit_is_found_before_anything_is_written(
    run: Callable[..., Result],
    data: Path,
    tmp_path: Path,
    arms: list[Mapping[str, Any]],
    code: str,
    says: list[str],
) -> None:
    study = write_study(tmp_path, data, *arms)
    ended = run("compare", study, "-o", tmp_path / "out", "--device", "cpu")
    assert ended.exit_code in (2, 3)
    assert f"error[{code}]" in ended.stderr
    assert all(words in ended.stderr for words in says), ended.stderr
    assert not (tmp_path / "out").exists()
    assert ended.stdout == ""


def test_all_arms_that_do_not_fit_are_told_at_once(
    run: Callable[..., Result], data: Path, tmp_path: Path
) -> None:
    wide = {**PLAN, "adapter": {"dim": 400}}
    study = write_study(
        tmp_path, data, {"name": "a", "plan": wide}, {"name": "b", "plan": {**PLAN, "factor": 1.2}}
    )
    ended = run("compare", study, "-o", tmp_path / "out", "--device", "cpu")
    assert ended.exit_code == 2
    assert "error[adapter-too-wide]" in ended.stderr
    assert "error[factor-mismatch]" in ended.stderr


@pytest.mark.parametrize(("key", "value"), [("val_data", "elsewhere"), ("tokenizer", "words")])
def test_data_of_another_task_are_refused_where_they_stand(
    run: Callable[..., Result], data: Path, tmp_path: Path, key: str, value: str
) -> None:
    study = write_study(tmp_path, data, SCALENET)
    text = study.read_text()
    study.write_text(text.replace("\ndata:\n", f"\ndata:\n  {key}: {value}\n"))
    ended = run("compare", study, "-o", tmp_path / "out", "--dry-run")
    assert ended.exit_code == 2
    assert f"error[plan-schema]: `{key}` is for language models" in ended.stderr
    assert f"data.{key}" in ended.stderr
    assert "--" not in ended.stderr


def test_equal_compute_means_other_steps(
    run: Callable[..., Result], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = {"name": "longer", "base": True, "like": "scalenet", "budget": "flops"}
    scratch = {"name": "scratch", "scratch": True, "like": "scalenet"}
    same = {"name": "same", "baseline": "stack", "like": "scalenet", "match": "blocks"}
    recipe = {"epochs": 30, "batch_size": 8}
    study = write_study(
        tmp_path, data, SCALENET, longer, scratch, same, settings=recipe, seeds=[0, 1]
    )
    ended = run("compare", study, "-o", tmp_path / "o", "--device", "cpu", "--dry-run", "--json")
    assert ended.exit_code == 0, ended.stderr
    report = json.loads(ended.stdout)
    arms = {arm["name"]: arm for arm in report["arms"]}
    assert arms["longer"]["steps"] > arms["scalenet"]["steps"] == 60
    assert abs(arms["longer"]["relative_cost"] - 1) < 0.02
    assert arms["scratch"]["blocks"] == arms["same"]["blocks"] == 4
    assert report["total_train_flops"] == 2 * sum(a["total_train_flops"] for a in report["arms"])
    show(CompareReport.model_validate(report))
    table = capsys.readouterr().out
    assert "longer (like scalenet)" in table
    assert "4 arms x 2 seeds" in table
    assert not (tmp_path / "o").exists()
