"""``scalenet eval`` of a language model on two processes: the numbers of one."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import Run
from tests.tasks.causal_lm.helpers import write_model, write_questions, write_texts
from tests.tasks.image_classification.test_evaluation_ranks import run_two_ranks

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def without_times(report: dict[str, Any]) -> dict[str, Any]:
    del report["num_processes"]
    for part in (*report["perplexity"], *report["choices"]):
        del part["seconds"]
        part.pop("tokens_per_second", None)
    return report


def test_two_ranks_share_windows_and_questions(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    texts = write_texts(tmp_path / "texts.jsonl")
    questions = write_questions(tmp_path / "questions.jsonl", 7)
    arguments = ("eval", model, "--data", texts, "--data", questions, "--device", "cpu", "--json")
    arguments += ("--context", 33, "--stride", 7, "--batch-size", 2)
    one = without_times(json.loads(run(*arguments).stdout))
    main, other = run_two_ranks(tmp_path, *arguments)
    assert (main[0], other[:2]) == (0, (0, "")), main[2] + other[2]
    two = without_times(json.loads(main[1]))
    for name in ("loss", "perplexity", "bits_per_byte"):
        assert two["perplexity"][0].pop(name) == pytest.approx(
            one["perplexity"][0].pop(name), rel=1e-6
        )
    assert one == two


def test_ranks_with_other_texts_are_noticed(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    write_texts(tmp_path / "0.jsonl")
    text = (tmp_path / "0.jsonl").read_text()
    (tmp_path / "1.jsonl").write_text("  ".join(text.rsplit(" ", 1)))
    main, other = run_two_ranks(tmp_path, "eval", model, "--data", tmp_path / "{rank}.jsonl")
    assert main[:2] == other[:2] == (2, "")
    assert "error[ranks-differ]: rank 1 has data 0 " in main[2]
    assert "error[" not in other[2]


def test_tasks_are_for_one_process(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    arguments = ("eval", model, "--tasks", "piqa", "--device", "cpu")
    main, other = run_two_ranks(tmp_path, *arguments)
    assert main[:2] == other[:2] == (2, "")
    assert "--tasks runs in one process, but 2 were started" in main[2]
    assert "error[" not in other[2]
