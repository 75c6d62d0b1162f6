"""Studies of other sources: a language model, and a checkpoint with other classes than the data."""

import json
from pathlib import Path

import pytest
import yaml
from safetensors.torch import save_file

from scalenet_cli import load
from scalenet_cli.errors import RunDiffers
from tests.compare.helpers import PLAN, SCALENET, Watch, run_study, write_study
from tests.images import write_classifier
from tests.laws.building import write_source
from tests.models import tiny_case
from tests.training.runs import write_data
from tests.training.texts import RECIPE, write_texts, write_tokenizer


@pytest.mark.slow
def test_arms_of_a_language_model(tmp_path: Path) -> None:
    source = Path(write_source(tiny_case("llama"), tmp_path / "source"))
    write_tokenizer(source)
    write_texts(tmp_path / "texts")
    arms = [{"name": "scalenet", "plan": {**PLAN, "start": "identity"}}]
    study = tmp_path / "s.yaml"
    entries = {
        "version": 1, "source": "source", "data": {"path": "texts"}, "recipe": dict(RECIPE),
        "seeds": [3], "arms": arms, "settings": {"max_steps": 2, "warmup_epochs": 0},
    }  # fmt: skip
    study.write_text(yaml.safe_dump(entries))
    report = run_study(study, tmp_path / "out", Watch())
    assert report.metric == "perplexity"
    (arm,) = report.arms
    assert (arm.input_size, arm.unit, arm.steps) == (24, "tokens", 2)
    assert report.results is not None
    assert not report.results.larger_is_better
    assert report.results.arms[0].last is not None
    assert "perplexity" in (tmp_path / "out" / "results.md").read_text()
    assert load(tmp_path / "out" / "cells" / "scalenet" / "seed-3") is not None


@pytest.mark.slow
def test_other_classes_than_the_sources_and_a_file_without_weights_of_its_own(
    tmp_path: Path,
) -> None:
    """What the plan of the study says of a new head and of random weights is what is trained."""
    source, _ = write_classifier(tmp_path)
    data = write_data(tmp_path / "data", classes=3, train=17, val=10)
    scratch = {"name": "scratch", "scratch": True, "like": "scalenet"}
    study = write_study(tmp_path, data, SCALENET, scratch, source=source.name, random_weights=False,
                        model_kwargs={"num_heads": 2, "mean": [0.1, 0.2, 0.3]})  # fmt: skip
    report = run_study(study, tmp_path / "out")
    for arm in report.arms:
        last = tmp_path / "out" / "cells" / arm.name / "seed-0" / "last" / "manifest.json"
        manifest = json.loads(last.read_text())
        assert manifest["parameters"]["stored"] == arm.stored
        assert manifest["flops"]["macs"] == arm.macs
        assert tuple(manifest["trained"]["groups"]) == arm.trained_groups
        assert "head" in arm.trained_groups
        assert manifest["source"]["preprocessing"]["mean"] == [0.1, 0.2, 0.3]


def test_a_source_that_was_trained_on_is_noticed(tmp_path: Path) -> None:
    source, model = write_classifier(tmp_path)
    data = write_data(tmp_path / "data", classes=5, train=10, val=5)
    study = write_study(tmp_path, data, {"name": "base", "base": True}, source=source.name,
                        random_weights=False, model_kwargs={"num_heads": 2},
                        settings={"max_steps": 1})  # fmt: skip
    run_study(study, tmp_path / "out")
    values = {key: value.contiguous() for key, value in model.named_parameters()}
    save_file({**values, "head.bias": values["head.bias"] + 1}, source)
    with pytest.raises(RunDiffers, match=r"base/seed-0 \(source changed\)"):
        run_study(study, tmp_path / "out")
