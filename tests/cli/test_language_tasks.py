"""`eval --tasks`: lm-eval's tasks and those of a folder, and what is refused."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.tasks.causal_lm.evaluation.lm_eval_tasks import check_tasks
from tests.cli.helpers import DATA, USAGE, Run, refuse
from tests.tasks.causal_lm.helpers import (
    TASK,
    TEMPLATE,
    questions,
    write_lines,
    write_model,
    write_tokenizer,
)

Denied = Callable[..., str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def denied(run: Run, tmp_path: Path, model: Path) -> Denied:
    """`eval` of the tiny decoder refuses."""

    def refused(code: str, *says: str, status: int = DATA, flags: Any = ()) -> str:
        return refuse(run, tmp_path, "eval", model, *flags, status=status, code=code, says=says)

    return refused


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_own_tasks(
    run: Run, denied: Denied, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    alone = partial(check_tasks, defaults=False)  # reading all of lm-eval's own takes long
    monkeypatch.setattr("scalenet_cli.tasks.causal_lm.evaluation.session.check_tasks", alone)
    data = write_lines(tmp_path / "data.jsonl", questions(5))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "local.yaml").write_text(TASK.format(path=json.dumps(str(data))))
    flags = ("--tasks", "local_questions", "--include-path", tmp_path / "tasks")
    says = "--apply-chat-template needs a tokenizer with a chat template"
    denied("option", says, status=USAGE, flags=(*flags, "--apply-chat-template"))
    write_tokenizer(model, template=TEMPLATE)
    result = run("eval", model, *flags, "--apply-chat-template", "--json")
    assert result.exit_code == 0, result.stderr
    (task,) = json.loads(result.stdout)["tasks"]
    assert (task["task"], task["num_samples"]) == ("local_questions", 5)
    assert task["chat_template"]
    shown = run("eval", model, *flags, "--apply-chat-template").stdout
    assert "local_questions: 5 samples, 0-shot, chat template" in shown
    says = f"no task other, nor has {tmp_path / 'tasks'}"
    denied("option", says, status=USAGE, flags=("--tasks", "other", *flags[2:]))


def test_a_folder_that_is_not_there(denied: Denied, tmp_path: Path) -> None:
    says = ("--include-path is no folder", f"where: {tmp_path / 'none'}")
    flags = ("--tasks", "piqa", "--include-path", tmp_path / "none")
    denied("option", *says, status=USAGE, flags=flags)


def test_tasks_without_their_extra(denied: Denied, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    says = ("--tasks needs the package lm_eval", "pip install '.[lm-eval]'")
    denied("missing-extra", *says, flags=("--tasks", "piqa"))


@pytest.mark.slow  # lm-eval reads the files of thousands of tasks
@pytest.mark.filterwarnings("ignore")
def test_tasks_that_cannot_be_run(denied: Denied) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    says = ("lm-eval has no task piqua", "near it: piqa")
    denied("option", *says, status=USAGE, flags=("--tasks", "arc_easy,piqua"))
    says = ("the data of piqa could not be fetched", "{query, choices, gold}")
    denied("download-failed", *says, flags=("--tasks", "piqa"))
