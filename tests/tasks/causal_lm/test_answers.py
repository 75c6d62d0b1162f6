"""Perplexity of answers: what a run's validation measures, of any model."""

from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.tasks.causal_lm.evaluation.evaluate import evaluate_language
from scalenet_cli.tasks.causal_lm.evaluation.options import LanguageOptions
from tests.tasks.causal_lm.helpers import questions, write_lines
from tests.training.runs import slow, train
from tests.training.texts import (
    CHAT,
    RECIPE,
    instructions,
    write_language_bundle,
    write_records,
    write_texts,
)


def evaluated(target: Path, data: Path, **how: Any) -> Any:
    options = LanguageOptions(data=(str(data),), device="cpu", **how)
    (found,) = evaluate_language(target, options).answers
    return found


@pytest.mark.parametrize("template", [slow("none"), "alpaca", slow("chat")])
def test_it_is_the_metric_of_a_run(tmp_path: Path, template: Any) -> None:
    bundle = write_language_bundle(tmp_path / "bundle", chat=CHAT)
    texts = write_texts(tmp_path / "texts")
    recipe = {**RECIPE, "template": template, "max_length": 64}
    report = train(bundle, texts, tmp_path / "run", recipe)
    data = texts / "validation.jsonl"
    how = {"template": template, "context": 64, "batch_size": 3}
    found = evaluated(tmp_path / "run" / "last", data, **how)
    assert found.perplexity == pytest.approx(report.last["perplexity"], rel=1e-5)
    assert (found.template, found.num_records, found.num_dropped) == (template, 13, 0)
    assert evaluated(tmp_path / "run", data, **{**how, "template": "auto"}).template == template
    assert evaluated(tmp_path / "bundle", data, **how).perplexity == pytest.approx(
        report.before, rel=1e-5
    )


def test_what_is_cut_and_left_out_is_counted(tmp_path: Path) -> None:
    bundle = write_language_bundle(tmp_path / "bundle")
    rows = [*instructions(5), {"instruction": "w5", "output": ""}]
    long = {"instruction": "w5", "output": " ".join(["w6"] * 40)}
    late = {"instruction": " ".join(["w6"] * 40), "output": "w5"}
    data = write_records(tmp_path / "data.jsonl", [*rows, long, late])
    found = evaluated(bundle, data, template="none", context=24)
    assert (found.num_records, found.num_cut, found.num_dropped) == (8, 2, 2)
    assert found.context == 24


def test_one_kind_of_records_per_data(tmp_path: Path) -> None:
    bundle = write_language_bundle(tmp_path / "bundle")
    answers, text = instructions(2), {"text": "w5 w6"}
    for rows, says in (
        ([*answers, text], "a text among answers"),
        ([text, *answers], "a record to finetune on among texts"),
        ([*answers, *questions(1)], "a question among answers"),
    ):
        data = write_lines(tmp_path / "mixed.jsonl", rows)
        with pytest.raises(DataUnreadable, match=says):
            evaluated(bundle, data)
    with pytest.raises(OptionError, match="--context is 100, but the model is made for 2 to 64"):
        evaluated(bundle, write_lines(tmp_path / "data.jsonl", answers), context=100)
    with pytest.raises(OptionError, match="the tokenizer has no chat template"):
        evaluated(bundle, tmp_path / "data.jsonl", template="chat")
