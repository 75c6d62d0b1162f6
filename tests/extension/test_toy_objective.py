"""An objective in one module and one table entry: cross entropy plus a pull towards the base.

Its teacher is the base model inside of the same bundle; the oracle is the unmodified timm model.
"""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

from scalenet_cli.models.load import load_bundle
from scalenet_cli.plan.schema import GROUPS
from scalenet_cli.tasks.image_classification.objective import OBJECTIVES
from scalenet_cli.training.base_model import base_outputs
from scalenet_cli.training.objective import Loss
from tests.models import tiny_case
from tests.training.runs import (
    COMPARABLE,
    InterruptAt,
    Interrupted,
    expand_case,
    metrics,
    train,
    write_data,
)

RECIPE = {**COMPARABLE, "train": ["adapters", "gates"], "save_steps": 1, "log_steps": 1}
PLAN = {"start": "identity"}


class StayClose:
    """Cross entropy, and how far logits are from the base's."""

    wants_teacher = True

    def __init__(self, recipe: Any) -> None:
        self.teachers: list[torch.Tensor] = []

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor) -> Loss:
        assert not teacher.requires_grad
        parts = {
            "class": F.cross_entropy(outputs, targets),
            "distance": F.mse_loss(outputs, teacher),
        }
        return Loss(parts["class"] + parts["distance"], parts)


@pytest.fixture(autouse=True)
def entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dict_of_objectives(), "cross-entropy", StayClose)


def dict_of_objectives() -> dict[str, Any]:
    assert isinstance(OBJECTIVES, dict)
    return OBJECTIVES


@pytest.mark.parametrize("accumulate", [1, 2])
def test_parts_are_logged_and_a_resumed_run_is_the_same(accumulate: int, tmp_path: Path) -> None:
    bundle = expand_case(tiny_case("vit"), tmp_path / "bundle", **PLAN)
    data = write_data(tmp_path / "data")
    recipe = {**RECIPE, "accumulate": accumulate}
    train(bundle, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(bundle, data, tmp_path / "run", recipe, reporter=InterruptAt(3))
    train(bundle, data, tmp_path / "run", recipe, resume=True)
    lines = [line for line in metrics(tmp_path / "whole") if "grad_norm" in line]
    assert lines == [line for line in metrics(tmp_path / "run") if "grad_norm" in line]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss/class"] + line["loss/distance"], rel=1e-5)
    # At the start the scaled model is its base.
    assert lines[0]["loss/distance"] == pytest.approx(0, abs=1e-9)
    assert lines[-1]["loss/distance"] > 1e-6


def test_a_part_may_begin_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(dict_of_objectives(), "cross-entropy", StayCloseLater)
    bundle = expand_case(tiny_case("vit"), tmp_path / "bundle", **PLAN)
    train(bundle, write_data(tmp_path / "data"), tmp_path / "run", {**RECIPE, "save_steps": 4})
    lines = [line for line in metrics(tmp_path / "run") if "grad_norm" in line]
    assert ["loss/distance" in line for line in lines[:4]] == [False, False, True, True]
    assert all(line["loss"] >= line["loss/class"] for line in lines)


class StayCloseLater(StayClose):
    """From the third step on."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor) -> Loss:
        whole = super().loss(outputs, targets, teacher)
        self.teachers.append(teacher)
        if len(self.teachers) > 2:
            return whole
        return Loss(whole.parts["class"], {"class": whole.parts["class"]})


def test_the_base_inside_of_a_trained_bundle_is_the_source(tmp_path: Path) -> None:
    case = tiny_case("vit")
    bundle = expand_case(case, tmp_path / "bundle", **PLAN)
    run = tmp_path / "run"
    train(bundle, write_data(tmp_path / "data"), run, RECIPE)
    loaded = load_bundle(run / "last")
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    loaded.model.train()
    found = base_outputs(loaded.model, loaded.layout, lambda: loaded.model(images))
    with torch.no_grad():
        expected = case.model(images)
        trained = loaded.model.eval()(images)
    assert isinstance(case.model, timm.models.VisionTransformer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(trained, expected, atol=1e-4)
    assert set(loaded.groups.values()) <= set(GROUPS)


def test_the_student_learns_under_autocast(tmp_path: Path) -> None:
    """The teacher's pass leaves no copies of weights behind that have no gradient."""
    bundle = expand_case(tiny_case("vit"), tmp_path / "bundle", **PLAN)
    train(bundle, write_data(tmp_path / "data"), tmp_path / "run", {**RECIPE, "precision": "bf16"})
    before, after = load_bundle(bundle), load_bundle(tmp_path / "run" / "last")
    new = dict(after.model.named_parameters())
    for key, old in before.model.named_parameters():
        assert torch.equal(old, new[key]) != (before.groups[key] in ("adapters", "gates")), key
