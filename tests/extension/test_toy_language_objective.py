"""A toy objective of language models, with the base model as its teacher."""

from pathlib import Path
from typing import Any, ClassVar, final

import pytest
import torch
from torch.nn import functional as F

from scalenet_cli.tasks.causal_lm.objective import OBJECTIVES
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.training.objective import Loss
from tests.training.runs import metrics, train
from tests.training.texts import RECIPE, write_language_bundle, write_texts


@final
class KeepLogits:
    """Cross entropy, and the squared distance to what the base answers."""

    wants_teacher: ClassVar[bool] = True

    def __init__(self, recipe: LanguageRecipe) -> None:
        """Nothing in a recipe changes it."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, teacher: Any) -> Loss:
        """The sum of both."""
        parts = {
            "cross_entropy": F.cross_entropy(outputs, targets),
            "distance": F.mse_loss(outputs, teacher),
        }
        return Loss(parts["cross_entropy"] + parts["distance"], parts)


def test_a_language_model_keeps_to_its_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(OBJECTIVES, dict)
    monkeypatch.setitem(OBJECTIVES, "next-token", KeepLogits)
    data = write_texts(tmp_path / "texts")
    run = tmp_path / "run"
    recipe = {**RECIPE, "accumulate": 2, "max_steps": 3}
    train(write_language_bundle(tmp_path / "bundle"), data, run, recipe)
    lines = [line for line in metrics(run) if "loss" in line]
    assert len(lines) == 3
    for line in lines:
        parts = line["loss/cross_entropy"] + line["loss/distance"]
        assert line["loss"] == pytest.approx(parts, rel=1e-5)
        assert line["loss/distance"] > 0
