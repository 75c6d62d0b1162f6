"""Every shipped recipe gives its numbers through the command line, at full size."""

import json
from collections.abc import Callable
from functools import cache

import pytest
from typer.testing import Result

from scalenet_cli import ImageRecipe, count_params, load_plan, load_training_recipe
from scalenet_cli.plan.recipes import recipe_names, training_recipe_names

PAPER = [name for name in recipe_names() if name.startswith("paper/")]
DO_NOT_FOLLOW = {
    "paper/table1/swin_tiny",
    "paper/table4/deit_base_3x",
    "paper/table4/swin_base_3x",
    "paper/table6/deit_base_dim8",
    "paper/table6/deit_base_dim32",
}


@cache
def num_blocks(source: str) -> int:
    """Blocks of a source; many recipes have the same one."""
    return len(count_params(source).instances)


@pytest.mark.parametrize("name", PAPER)
def test_a_recipe_gives_its_expected_count(name: str, run: Callable[..., Result]) -> None:
    recipe = load_plan(name).recipe
    assert recipe is not None
    assert recipe.expect is not None
    result = run("count-params", recipe.source, "--plan", name, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["stored"] == recipe.expect.stored
    published = recipe.expect.published_millions
    assert published is not None
    follows = round(report["stored"] / 1e6, 2) == published
    assert follows == recipe.expect.published_follows == (name not in DO_NOT_FOLLOW)
    new_blocks = len(report["instances"]) - num_blocks(recipe.source)
    assert new_blocks == recipe.expect.new_blocks


def test_all_rows_of_the_paper_have_a_recipe() -> None:
    assert len(PAPER) == 37


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
    assert isinstance(load_training_recipe(name), ImageRecipe)


def test_the_defaults_of_training_are_the_papers() -> None:
    assert load_training_recipe("training/paper") == load_training_recipe(None) == ImageRecipe()
