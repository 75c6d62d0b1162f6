"""Every shipped recipe gives its numbers through the command line, at full size."""

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from typer.testing import Result

from scalenet_cli import (
    ImageRecipe,
    LanguageRecipe,
    count_params,
    load_plan,
    load_training_recipe,
)
from scalenet_cli.errors import OptionError, PlanErrors
from scalenet_cli.plan.recipes import recipe_names, recipe_path, training_recipe_names
from scalenet_cli.plan.training import TrainingRecipe

PAPER = [name for name in recipe_names() if name.startswith("paper/")]
LANGUAGE = [name for name in recipe_names() if name.startswith("language/")]
DO_NOT_FOLLOW = {
    "paper/table1/swin_tiny",
    "paper/table4/deit_base_3x",
    "paper/table4/swin_base_3x",
    "paper/table6/deit_base_dim8",
    "paper/table6/deit_base_dim32",
    "paper/language/llama_3_2_1b",
}


@cache
def num_blocks(source: str) -> int:
    """Blocks of a source; many recipes have the same one."""
    return len(count_params(source).instances)


def target_of(name: str, source: str) -> str:
    """What to count: a language model's config lies in the folder of its recipe's name."""
    beside = recipe_path(name).with_suffix("")
    return str(beside) if beside.is_dir() else source


# The smallest of Table I, and the languages', by default; other rows are variations of theirs.
COUNTED = [
    name
    if name.startswith(("paper/table1/deit_tiny", "paper/table1/swin_tiny", "paper/language/"))
    else pytest.param(name, marks=pytest.mark.slow)
    for name in PAPER
]


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", [*COUNTED, *LANGUAGE])
def test_a_recipe_gives_its_expected_count(name: str, run: Callable[..., Result]) -> None:
    recipe = load_plan(name).recipe
    assert recipe is not None
    assert recipe.expect is not None
    target = target_of(name, recipe.source)
    result = run("count-params", target, "--plan", name, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["stored"] == recipe.expect.stored
    new_blocks = len(report["instances"]) - num_blocks(target)
    assert new_blocks == recipe.expect.new_blocks
    published = recipe.expect.published_millions
    assert (published is not None) == (name in PAPER)
    if published is not None:
        follows = round(report["stored"] / 1e6, 2) == published
        assert follows == recipe.expect.published_follows == (name not in DO_NOT_FOLLOW)


def test_all_rows_of_the_paper_have_a_recipe() -> None:
    assert len([name for name in PAPER if name.startswith("paper/table")]) == 37


def test_the_count_of_llama_is_the_sum_of_its_parts(run: Callable[..., Result]) -> None:
    """What the text gives, computed by hand; the published 1265 M is not among its readings."""
    name = "paper/language/llama_3_2_1b"
    folder = target_of(name, "")
    base = json.loads(run("count-params", folder, "--json").stdout)["stored"]
    attention = 2 * 2048 * 2048 + 2 * 2048 * 512
    block = attention + 3 * 2048 * 8192 + 2 * 2048
    assert base == 16 * block + 128256 * 2048 + 2048 == 1_235_814_400
    adapters = 32 * 3 * 16 * (2048 + 8192)
    scaled = json.loads(run("count-params", folder, "--plan", name, "--json").stdout)
    assert scaled["groups"]["adapters"] == adapters == 15_728_640
    assert scaled["stored"] == base + adapters + 16 * 2 * 2048


def test_recipes_are_listed_and_shown(run: Callable[..., Result]) -> None:
    listed = json.loads(run("recipes", "--json").stdout)
    assert [row["name"] for row in listed["recipes"]] == list(recipe_names())
    assert [row["name"] for row in listed["training"]] == list(training_recipe_names())
    assert all(row["title"] for row in listed["training"])
    table = run("recipes").stdout
    assert all(name in table for name in training_recipe_names())
    shown = run("recipes", "paper/table1/deit_base")
    assert "expect:" in shown.stdout
    assert shown.exit_code == 0
    shown = run("recipes", "training/paper")
    assert "warmup_epochs: 20" in shown.stdout
    assert shown.exit_code == 0


@pytest.mark.parametrize("name", list(training_recipe_names()))
def test_a_training_recipe_loads(name: str) -> None:
    assert isinstance(load_training_recipe(name), TrainingRecipe)


@pytest.mark.parametrize("task", [None, "causal-lm", "image-classification"])
def test_a_task_that_is_no_name_is_a_mistake_of_the_recipe(
    task: str | None, tmp_path: Path
) -> None:
    (tmp_path / "recipe.yaml").write_text("version: 1\ntask: [images]\n")
    with pytest.raises(PlanErrors, match=r"recipe\.yaml:2"):
        load_training_recipe(tmp_path / "recipe.yaml", task=task)


def test_the_former_names_of_tasks_are_taken() -> None:
    assert load_training_recipe(None, task="language") == LanguageRecipe()
    assert load_training_recipe("training/alpaca", task="language").task == "causal-lm"
    assert load_training_recipe("training/paper", task="images") == ImageRecipe()
    with pytest.raises(OptionError, match="no task is called vision"):
        load_training_recipe(None, task="vision")


def test_the_defaults_of_training_are_the_papers() -> None:
    assert load_training_recipe("training/paper") == load_training_recipe(None) == ImageRecipe()
