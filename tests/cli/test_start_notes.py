"""A start that loses what the source computes, and gates that nothing trains, are said."""

import json
from pathlib import Path

import pytest
import torch

from scalenet_cli import load
from scalenet_cli.plan.load import load_plan
from scalenet_cli.plan.load_study import load_study
from scalenet_cli.plan.recipes import recipe_names, study_names
from tests.cli.helpers import USAGE, Run, refuse, short
from tests.conftest import VIT_OPTIONS
from tests.models import tiny_case

HEAD = "version: 1\nmapping: interpolate\nfactor: 2\n"
SMALL = HEAD + "adapter: {dim: 4}\n"


def expand_notes(run: Run, *arguments: object) -> list[str]:
    """The notes of an expansion, which stderr and the report have alike."""
    result = run("expand", *arguments, "--json")
    assert result.exit_code == 0, result.stderr
    notes: list[str] = json.loads(result.stdout)["notes"]
    shown = result.stderr.splitlines()
    assert [f"note: {note}" for note in notes] == shown
    return notes


@pytest.mark.parametrize(
    ("start", "measured", "weights"),
    [("copy", "31.12", "tied"), ("copy", "31.12", "random"), ("average", "53.66", "tied")],
)
def test_a_start_that_is_not_its_source_says_what_was_measured(
    run: Run, vit_checkpoint: Path, tmp_path: Path, start: str, measured: str, weights: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"{SMALL}start: {start}\nshared: {{weights: {weights}}}\n")
    dry = (vit_checkpoint, "--plan", plan, "-o", tmp_path / "out", *VIT_OPTIONS, "--dry-run")
    notes = [note for note in expand_notes(run, *dry) if note.startswith("start:")]
    assert len(notes) == 1
    assert f"start: {start} does not keep what the source computes" in notes[0]
    assert f"from 56.97 to {measured} % top-1" in notes[0]
    results = Path(__file__).parents[2] / "docs" / "results.md"
    assert f"| `{start}` | {measured} |" in results.read_text()


@pytest.mark.parametrize(
    "text",
    [SMALL, SMALL + "start: identity\n", SMALL.replace("factor: 2", "factor: 1") + "start: copy\n"],
    ids=short,
)
def test_nothing_is_said_where_nothing_is_lost(
    run: Run, vit_checkpoint: Path, tmp_path: Path, text: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(text)
    arguments = (vit_checkpoint, "--plan", plan, "-o", tmp_path / "out", *VIT_OPTIONS)
    assert not [note for note in expand_notes(run, *arguments) if note.startswith("start:")]


@pytest.mark.sample(3)
@pytest.mark.parametrize("weights", ["tied", "copied", "random", "averaged"])
def test_the_readmes_plan_keeps_the_source_bit_for_bit(
    run: Run, vit_checkpoint: Path, tmp_path: Path, weights: str
) -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    text = readme.partition("<<PLAN\n")[2].partition("PLAN\n")[0]
    assert "start" not in text
    plan = tmp_path / "x2.yaml"
    plan.write_text(f"{text}adapter: {{dim: 4}}\nshared: {{weights: {weights}}}\n")
    expand_notes(run, vit_checkpoint, "--plan", plan, "-o", tmp_path / "out", *VIT_OPTIONS)
    case, scaled = tiny_case("vit"), load(tmp_path / "out")
    with torch.no_grad():
        assert torch.equal(scaled(**case.inputs), case.model(**case.inputs))


def test_shipped_plans_say_how_they_start() -> None:
    """So that a default may change without a row of the paper that changes with it."""
    for name in recipe_names():
        plan = load_plan(name).plan
        assert "start" in plan.model_fields_set, name
        assert plan.start == ("copy" if name.startswith("paper/") else "identity"), name
    for name in study_names():
        document = load_study(name)
        for order, arm in enumerate(document.study.arms):
            if arm.kind == "plan":
                assert "start" in document.plan(order).plan.model_fields_set, (name, arm.name)


def test_a_model_that_cannot_keep_its_source_asks_for_a_start(run: Run, tmp_path: Path) -> None:
    """timm's ResPostBlock: a norm with a bias follows each branch."""
    target = ["--against", "timm:vit_base_patch16_rpn_224"]
    for argument in ("img_size=16", "patch_size=4", "embed_dim=32", "depth=2", "num_heads=2"):
        target += ["--model-kwargs", argument]
    plan = tmp_path / "plan.yaml"
    plan.write_text(HEAD)
    refuse(
        run, tmp_path, "check", plan, *target, status=USAGE, code="start-unsupported",
        says=("start: identity, which is the default", "hint:  write `start: copy`"),
    )  # fmt: skip
    for text in (HEAD + "start: copy\n", HEAD.replace("factor: 2", "factor: 1")):
        plan.write_text(text)  # where no block is added, no start is needed
        result = run("check", plan, *target)
        assert result.exit_code == 0, result.stderr


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (
            "adapter: {dim: 4}\ntrain: [adapters, norms]\n",
            "new blocks learn through their adapters",
        ),
        ("adapter: {dim: 4, targets: [fc1]}\ntrain: [adapters]\n", "they never do anything"),
        ("adapter: {type: none}\ntrain: [norms]\n", "they never do anything"),
        ("adapter: {dim: 4}\ntrain: [gates]\n", None),
        ("adapter: {dim: 4}\ntrain: [norms]\nstart: average\n", None),
    ],
    ids=short,
)
def test_gates_that_nothing_trains_are_told(
    run: Run, vit_checkpoint: Path, tmp_path: Path, rest: str, says: str | None
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(HEAD + rest)
    dry = (vit_checkpoint, "--plan", plan, "-o", tmp_path / "out", *VIT_OPTIONS, "--dry-run")
    notes = [note for note in expand_notes(run, *dry) if "gates of 0" in note]
    assert len(notes) == (says is not None)
    assert says is None or says in notes[0]
