"""Studies of other sources: a language model, and a checkpoint with other classes than the data."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import save_file

from scalenet_cli import load
from scalenet_cli.errors import PlanSchema, RunDiffers
from scalenet_cli.plan.load_study import StudyDocument, load_study
from scalenet_cli.study.data import StudySource, TaskMaker, open_study_source
from scalenet_cli.tasks.causal_lm.data import corpus
from scalenet_cli.tasks.recipes import recipe_table
from scalenet_cli.training.devices import open_devices
from scalenet_cli.training.run_training import Work
from tests.images import write_classifier, write_labelled
from tests.laws.building import write_source
from tests.models import tiny_case
from tests.study.helpers import PLAN, SCALENET, Watch, run_study, write_study
from tests.training.runs import write_data
from tests.training.texts import (
    RECIPE,
    instructions,
    write_records,
    write_texts,
    write_tokenizer,
)


def write_language_study(folder: Path, **data: Any) -> Path:
    """Of a tiny llama and texts beside it; keyword arguments are entries of the data."""
    source = Path(write_source(tiny_case("llama"), folder / "source"))
    write_tokenizer(source)
    write_texts(folder / "texts")
    arms = [{"name": "scalenet", "plan": {**PLAN, "start": "identity"}}]
    study = folder / "s.yaml"
    entries = {
        "version": 1, "source": "source", "data": {"path": "texts", **data}, "arms": arms,
        "recipe": dict(RECIPE), "seeds": [3], "settings": {"max_steps": 2, "warmup_epochs": 0},
    }  # fmt: skip
    study.write_text(yaml.safe_dump(entries))
    return study


def opened(study: Path) -> tuple[StudyDocument, StudySource]:
    document = load_study(study)
    return document, open_study_source(document)


def test_texts_are_read_once_for_all_recipes_that_read_them_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[object] = []
    real = corpus.open_corpus

    def counted(*arguments: Any) -> corpus.Corpus:
        reads.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(corpus, "open_corpus", counted)
    document, source = opened(write_language_study(tmp_path))
    tasks = TaskMaker(document, source, open_devices("cpu"), Work(workers=0))
    recipe = document.recipe(0, "causal-lm", recipe_table())
    faster = recipe.model_copy(update={"lr": 1.0})
    assert tasks.make(recipe, "here") is not tasks.make(faster, "here")
    assert tasks.record(recipe) == tasks.record(faster)
    assert len(reads) == 1
    changes = {"max_length": 12, "template": "alpaca", "train_on_prompt": True, "val_share": 0.3}
    for key, value in changes.items():
        tasks.record(recipe.model_copy(update={key: value}))
    assert len(reads) == 5


@pytest.mark.parametrize(
    "data", [{"dataset": "torch/cifar10"}, {"num_classes": 3}, {"skip_corrupt": True}]
)
def test_data_of_images_are_refused_for_a_language_model(
    tmp_path: Path, data: dict[str, Any]
) -> None:
    (key,) = data
    with pytest.raises(PlanSchema, match=f"`{key}` is for image classifiers") as raised:
        opened(write_language_study(tmp_path, **data))
    assert str(raised.value.where).endswith(f"data.{key}")


@pytest.mark.slow
def test_arms_of_a_language_model(tmp_path: Path) -> None:
    study = write_language_study(tmp_path)
    report = run_study(study, tmp_path / "out", Watch())
    assert report.metric == "perplexity"
    (arm,) = report.arms
    assert (arm.input_size, arm.unit, arm.steps) == (24, "tokens", 2)
    assert report.results is not None
    assert not report.results.larger_is_better
    assert report.results.arms[0].last is not None
    assert "perplexity" in (tmp_path / "out" / "results.md").read_text()
    assert load(tmp_path / "out" / "cells" / "scalenet" / "seed-3") is not None
    write_records(tmp_path / "texts" / "train.jsonl", instructions(34, seed=9))
    with pytest.raises(RunDiffers, match="made on others: scalenet/seed-3"):
        run_study(study, tmp_path / "out", Watch())


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


@pytest.mark.slow
def test_every_arm_gets_a_new_head_where_names_differ(tmp_path: Path) -> None:
    """An arm from scratch does not know the source's names, and has to have the others' head."""
    source = write_labelled(tmp_path, [f"fruit{number}" for number in range(5)])
    data = write_data(tmp_path / "data", train=17, val=10)
    scratch = {"name": "scratch", "scratch": True, "like": "scalenet"}
    study = write_study(tmp_path, data, SCALENET, scratch, source=source.name,
                        random_weights=False, model_kwargs={})  # fmt: skip
    report = run_study(study, tmp_path / "out")
    assert report.notes[0].startswith("the head is new: 5 classes, and it is trained too, because")
    for arm in report.arms:
        record = tmp_path / "out" / "cells" / arm.name / "seed-0" / "run.json"
        assert json.loads(record.read_text())["new_head"]
        assert "head" in arm.trained_groups


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
