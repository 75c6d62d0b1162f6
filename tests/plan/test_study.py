"""Study files: what is refused, with which words and lines."""

from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import PlanErrors
from scalenet_cli.models.source_options import parse_model_kwargs
from scalenet_cli.plan.load_study import load_study, parse_study
from scalenet_cli.plan.load_training import parse_settings
from scalenet_cli.plan.recipes import study_names
from scalenet_cli.plan.yaml_text import dump_yaml, parse_yaml
from scalenet_cli.tasks.recipes import recipe_table

HEAD = """\
version: 1
source: timm:vit_tiny_patch16_224
data: {path: pets}
arms:
"""
SCALENET = "  - {name: scalenet, plan: {version: 1, mapping: stack, factor: 2}}\n"


def mistakes(text: str) -> list[str]:
    with pytest.raises(PlanErrors) as raised:
        parse_study(text, "s.yaml")
    return [str(error) for error in raised.value.errors]


def test_all_mistakes_come_at_once_with_their_lines_and_nearest_names() -> None:
    found = mistakes(
        "version: 1\n"
        "source: timm:vit_tiny_patch16_224\n"
        "sead: [0]\n"
        "data:\n"
        "  path: pets\n"
        "  limit_trian: 5\n"
        "arms:\n"
        "  - name: a b\n"
        "    base: true\n"
        "  - name: scalenet\n"
        "    plan:\n"
        "      version: 1\n"
        "      mapping: stack\n"
        "      factor: 2\n"
        "      adapter: {dims: 4}\n"
        "  - name: c\n"
        "    baseline: swaa\n"
        "    like: scalenet\n"
    )
    assert len(found) == 5
    for text, part in zip(
        found,
        (
            ("unknown key `sead`", "s.yaml:3  sead", "did you mean `seeds`"),
            ("unknown key `limit_trian`", "s.yaml:6  data.limit_trian", "`limit_train`"),
            ("s.yaml:8  arms[0].name",),
            ("unknown key `dims`", "s.yaml:15  arms[1].plan.adapter.dims", "did you mean `dim`"),
            ("baseline is 'swaa'", "s.yaml:17  arms[2].baseline", "did you mean `swa`"),
        ),
        strict=True,
    ):
        assert all(words in text for words in part), text


@pytest.mark.parametrize(
    ("arms", "says"),
    [
        ("  - {name: a, base: true}\n  - {name: A, base: true}\n", ("two arms", "s.yaml:6")),
        ("  - {name: a, base: true, plan: x}\n", ("exactly one of", "s.yaml:5")),
        ("  - {name: a}\n", ("exactly one of", "s.yaml:5")),
        ("  - {name: a, baseline: swa}\n", ("needs `like`",)),
        ("  - {name: a, scratch: true}\n", ("needs `like`",)),
        ("  - {name: a, base: true, budget: flops}\n", ("needs `like`",)),
        ("  - {name: a, base: true, stage: 2}\n", ("are for baselines",)),
        (
            f"{SCALENET}  - {{name: a, baseline: swa, like: scalnet}}\n",
            ("no arm called scalnet", "s.yaml:6  arms[1].like", "named here: scalenet"),
        ),
        (
            f"{SCALENET}  - {{name: a, baseline: swa, like: scalenet}}\n"
            "  - {name: b, baseline: swa, like: a}\n",
            ("itself like another arm", "s.yaml:7"),
        ),
        (
            "  - {name: a, base: true}\n  - {name: b, baseline: swa, like: a}\n",
            ("no plan whose size", "s.yaml:6"),
        ),
    ],
    ids=lambda value: "" if isinstance(value, tuple) else str(value)[4:60],
)
def test_arms_that_contradict_each_other(arms: str, says: tuple[str, ...]) -> None:
    (found,) = mistakes(HEAD + arms)
    assert all(words in found for words in says), found


def test_seeds_are_different() -> None:
    (found,) = mistakes(f"{HEAD}{SCALENET}seeds: [1, 1]\n")
    assert "seed 1 stands twice" in found
    assert "s.yaml:6  seeds" in found


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("settings:\n  lrr: 1\n", ("unknown key `lrr`", "s.yaml:7  settings.lrr", "`lr`")),
        ("recipe:\n  lr: -1\n", ("greater than 0", "s.yaml:7  recipe.lr")),
        ("settings: {seed: 3}\n", ("a study has `seeds`", "s.yaml:6  settings.seed")),
    ],
)
def test_settings_are_the_recipes(text: str, says: tuple[str, ...]) -> None:
    document = parse_study(HEAD + SCALENET + text, "s.yaml")
    with pytest.raises(Exception, match="error") as raised:
        document.recipe(0, "image-classification", recipe_table())
    assert all(words in str(raised.value) for words in says), str(raised.value)


def test_an_arms_settings_win() -> None:
    arms = "  - {name: a, base: true, settings: {lr: 3e-3}}\n  - {name: b, base: true}\n"
    common = "recipe: {lr: 1e-3, epochs: 7}\nsettings: {lr: 2e-3}\n"
    document = parse_study(HEAD + arms + common)
    recipes = [document.recipe(order, "image-classification", recipe_table()) for order in range(2)]
    assert [recipe.lr for recipe in recipes] == [3e-3, 2e-3]
    assert [recipe.epochs for recipe in recipes] == [7, 7]


def test_a_number_is_one_with_an_exponent_too() -> None:
    entries = "model_kwargs: {norm_eps: 1e-5, mean: [5E-1, .5e0, 1.e+0]}\nsettings: {lr: 1e3}\n"
    found = parse_study(HEAD + SCALENET + entries).study
    assert found.model_kwargs == {"norm_eps": 1e-5, "mean": [0.5, 0.5, 1.0]}
    assert found.settings == {"lr": 1000.0}
    assert parse_model_kwargs(["norm_eps=1e-5", "mean=5E-1,.5e0,1.e+0"]) == found.model_kwargs
    assert parse_settings(["lr=1e3"]) == found.settings


@pytest.mark.parametrize(
    "text", ["1e-5", "1E5", ".5e3", "1e", "e5", "1e-5x", "0x1e5", "yes", "1:30"]
)
def test_a_text_stays_a_text(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text, "b": 1e-5}), "x").data == {"a": text, "b": 1e-5}


def test_paths_start_from_the_study(tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(HEAD + SCALENET)
    document = load_study(path)
    assert document.place("pets") == str(tmp_path / "pets")
    assert document.place("hf:a/b") == "hf:a/b"
    changed: Any = document.replaced(source=None, data="other").study
    assert changed.data.path == str(Path("other").absolute())


@pytest.mark.parametrize("name", list(study_names()))
def test_a_shipped_study_loads(name: str) -> None:
    document = load_study(name)
    assert document.study.title
    for order, arm in enumerate(document.study.arms):
        document.recipe(order, "image-classification", recipe_table())
        if arm.kind == "plan":
            assert document.plan(order).plan.version == 1
