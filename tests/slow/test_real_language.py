"""`eval` and `generate` of real language models on real text and questions."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from scalenet_cli.tasks.causal_lm.data.records import read_records
from scalenet_cli.tasks.causal_lm.data.tokenizers import load_tokenizer
from tests.slow.test_real_weights import asset
from tests.tasks.causal_lm.helpers import TASK, write_lines

pytestmark = [pytest.mark.assets, pytest.mark.slow]
IDENTITY = "version: 1\nmapping: interpolate\nfactor: 2\nadapter: {dim: 16}\nstart: identity\n"
Run = Callable[..., Result]


def texts(count: int) -> list[str]:
    records = read_records(str(asset("lm") / "c4_demo.jsonl"))
    return [record.fields["text"] for record in records[:count]]


def test_a_sentencepiece_model_splits_as_its_own_library() -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    folder = asset("stories15m")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    tokenizer = load_tokenizer(folder)
    for text in texts(300):
        assert tokenizer.encode(text) == [1, *processor.encode(text)]


def test_perplexity_of_smollm2_is_that_of_a_plain_loop(run: Run, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = asset("smollm2")
    some = texts(6)
    data = write_lines(tmp_path / "c4.jsonl", [{"text": text} for text in some])
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    total, count = 0.0, 0
    for text in some:
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.no_grad():
            loss = model(ids, labels=ids).loss
        total, count = total + float(loss) * (ids.shape[1] - 1), count + ids.shape[1] - 1
    arguments = ("eval", folder, "--data", data, "--context", "8192", "--device", "cpu", "--json")
    (found,) = json.loads(run(*arguments).stdout)["perplexity"]
    assert found["num_targets"] == count
    assert found["perplexity"] == pytest.approx(math.exp(total / count), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["piqa", "arc_easy"])
def test_smollm2_answers_as_lm_eval_says(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = (asset("lm") / f"{name}.jsonl").read_text().splitlines()[:60]
    data = write_lines(tmp_path / "data.jsonl", [json.loads(row) for row in rows])
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "own.yaml").write_text(TASK.format(path=json.dumps(str(data))))
    tasks = ("--tasks", "local_questions", "--include-path", tmp_path / "tasks")
    result = run("eval", asset("smollm2"), "--data", data, *tasks, "--device", "cpu", "--json")
    report = json.loads(result.stdout)
    (ours,), (theirs,) = report["choices"], report["tasks"]
    for metric in ("acc", "acc_norm"):
        assert ours[metric] == theirs["metrics"][metric]
        assert ours[f"{metric}_stderr"] == pytest.approx(theirs["standard_errors"][metric])
    assert ours["num_questions"] == theirs["num_samples"] == 60


def test_an_identity_start_says_what_its_source_says(
    run: Run, tmp_path: Path, plan_file: Callable[..., Path]
) -> None:
    folder, bundle = asset("stories15m"), tmp_path / "out"
    assert run("expand", folder, "--plan", plan_file(IDENTITY), "-o", bundle).exit_code == 0
    lm = asset("lm")
    arguments = ("--data", lm / "c4_demo.jsonl", "--data", lm / "piqa.jsonl", "--limit", 10)
    reports = [
        json.loads(run("eval", target, *arguments, "--device", "cpu", "--json").stdout)
        for target in (folder, bundle)
    ]
    source, scaled = reports
    assert source["perplexity"][0]["loss"] == scaled["perplexity"][0]["loss"]
    assert source["choices"][0]["acc"] == scaled["choices"][0]["acc"]
    written = [
        run("generate", target, "--prompt", "Once upon a time", "--max-new-tokens", 30).stdout
        for target in (folder, bundle)
    ]
    assert written[0] == written[1]
    assert "little girl" in written[0]
