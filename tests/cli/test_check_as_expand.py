"""`check --against` refuses whatever `expand` would refuse, in the same words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.helpers import Run, write_decoder
from tests.conftest import PLAN


def _dynamic(folder: Path) -> None:
    write_decoder(folder, config={"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}})


def _generation(folder: Path) -> None:
    write_decoder(folder)
    (folder / "generation_config.json").write_text("[1, 2]")


def _unknown_kind(folder: Path) -> None:
    write_decoder(folder, config={"model_type": "gpt2"})


@pytest.mark.parametrize("write", [_dynamic, _generation, _unknown_kind])
def test_check_and_expand_refuse_in_the_same_words(
    run: Run, tmp_path: Path, write: Callable[[Path], None]
) -> None:
    write(tmp_path / "model")
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    expand = ("expand", tmp_path / "model", "--plan", plan, "-o", tmp_path / "out")
    commands = (("check", plan, "--against", tmp_path / "model"), expand, (*expand, "--dry-run"))
    told = [run(*command) for command in commands]
    assert len({(result.exit_code, result.stderr) for result in told}) == 1, [
        result.stderr for result in told
    ]
    assert told[0].exit_code in (2, 3)
    assert "error[" in told[0].stderr
    assert "aten." not in told[0].stderr


def test_check_says_what_was_decided_about_the_checkpoint(
    run: Run, tmp_path: Path, vit_checkpoint: Path
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    options = ("--model-kwargs", "num_heads=2", "--json")
    told = run("check", plan, "--against", vit_checkpoint, *options)
    (note,) = json.loads(told.stdout)["notes"]
    assert "built from its shapes" in note
    assert f"note: {note}" in told.stderr
