"""Tasks of lm-eval: their data, their packages and their metrics, chat templates, own folders."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import DownloadFailed, MissingExtra, OptionError
from scalenet_cli.models.target import open_target
from scalenet_cli.tasks.causal_lm.evaluation.lm_eval_tasks import (
    TaskScores,
    check_tasks,
    require_chat_template,
    run_tasks,
)
from scalenet_cli.tasks.causal_lm.load_model import OpenedLanguageModel, load_language_model
from tests.tasks.causal_lm.helpers import TASK, TEMPLATE, questions, write_lines, write_model

pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")
ADVICE = "`sympy` is required. Please install it via pip install lm-eval[math]"


@pytest.fixture
def opened(tmp_path: Path) -> OpenedLanguageModel:
    return load_language_model(open_target(write_model(tmp_path / "model"), weights=True))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of tasks, with one on a few questions."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = write_lines(tmp_path / "data.jsonl", questions(5))
    (tmp_path / "tasks").mkdir()
    task = TASK.format(path=json.dumps(str(data)))
    (tmp_path / "tasks" / "local.yaml").write_text(task)
    return tmp_path / "tasks"


def run(opened: OpenedLanguageModel, folder: Path, **how: Any) -> TaskScores:
    names = ["local_questions"]
    index = check_tasks(names, folder, defaults=False)
    model, tokenizer = opened.model, opened.tokenizer
    (found,) = run_tasks(model, tokenizer, names, index=index, context=64, batch_size=2, **how)
    return found


def with_code(folder: Path, code: str) -> None:
    """The task's questions are written by a function beside it."""
    path = folder / "local.yaml"
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if not line.startswith("doc_to_text")]
    path.write_text("".join(kept) + "doc_to_text: !function code.text\n")
    (folder / "code.py").write_text(f"{code}\ndef text(doc):\n    return doc['query']\n")


def test_a_folder_may_have_code(opened: OpenedLanguageModel, folder: Path) -> None:
    plain = run(opened, folder)
    with_code(folder, "")
    assert run(opened, folder) == plain
    assert plain.num_samples == 5


@pytest.mark.parametrize(
    ("code", "package", "hint"),
    [
        ("import langdetect", "langdetect", "pip install 'lm-eval[ifeval]'"),
        ("import no_such.package", "no_such", "pip install no_such"),
        (f"try:\n    import antlr4\nexcept ModuleNotFoundError as error:\n"
         f"    raise type(error)({ADVICE!r}) from error", "antlr4", ADVICE),
    ],
)  # fmt: skip
def test_a_package_that_is_missing(
    opened: OpenedLanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch, code: str,
    package: str, hint: str,
) -> None:  # fmt: skip
    for name in ("langdetect", "antlr4"):
        monkeypatch.setitem(sys.modules, name, None)
    with_code(folder, code)
    with pytest.raises(MissingExtra) as raised:
        run(opened, folder)
    assert f"--tasks local_questions needs the package {package}" in str(raised.value)
    assert raised.value.hint == hint


@pytest.mark.slow
def test_a_metric_that_is_missing(
    opened: OpenedLanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with_code(folder, "import evaluate\nevaluate.load('code_eval')")
    with pytest.raises(DownloadFailed, match=r"a metric of local_questions .*code_eval"):
        run(opened, folder)


@pytest.mark.parametrize(
    ("code", "says"),
    [("import json.nothing_of_it", "needs the package"), ("1 +", "cannot be loaded: SyntaxError")],
)
def test_code_that_is_broken(
    opened: OpenedLanguageModel, folder: Path, code: str, says: str
) -> None:
    with_code(folder, code)
    with pytest.raises((OptionError, MissingExtra), match=says):
        run(opened, folder)


def test_code_that_the_model_writes_is_not_run(opened: OpenedLanguageModel, folder: Path) -> None:
    with (folder / "local.yaml").open("a") as file:
        file.write("unsafe_code: true\n")
    with pytest.raises(OptionError, match="local_questions runs code that the model writes"):
        run(opened, folder)


def test_a_chat_template(opened: OpenedLanguageModel, folder: Path) -> None:
    with pytest.raises(OptionError, match="needs a tokenizer with a chat template"):
        require_chat_template(opened.tokenizer)
    read: list[list[list[int]]] = []
    opened.model.register_forward_pre_hook(lambda _, given: read.append(given[0].tolist()))
    opened.tokenizer.chat_template = TEMPLATE
    chat = run(opened, folder, apply_chat_template=True)
    inputs = read[:]
    read.clear()
    # The same as questions in which the template's words are written out.
    rows = [{**row, "query": f"user: {row['query']} dog: "} for row in questions(5)]
    write_lines(folder.parent / "data.jsonl", rows)
    task = folder / "local.yaml"
    task.write_text(task.read_text().replace('target_delimiter: " "', 'target_delimiter: ""'))
    assert run(opened, folder) == chat
    assert inputs == read


def test_only_what_fails_to_load_is_a_download(
    opened: OpenedLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval", reason="the extra lm-eval is not installed")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = write_lines(tmp_path / "data.jsonl", questions(4))
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit('code of a stranger was run')")
    (plain := tmp_path / "plain").mkdir()
    write_lines(plain / "validation.jsonl", questions(4))
    good = TASK.format(path=json.dumps(str(data)))
    tasks = {
        "local_questions": good,
        "scripted": good.replace("dataset_path: json", f"dataset_path: {script}"),
        "unnamed": good.replace("json\ndataset_kwargs", f"{plain}\ndataset_name: x\nmetadata"),
    }
    (tmp_path / "tasks").mkdir()
    for name, text in tasks.items():
        (tmp_path / "tasks" / f"{name}.yaml").write_text(text.replace("local_questions", name))
    index = check_tasks(list(tasks), tmp_path / "tasks", defaults=False)

    def tried(name: str) -> None:
        run_tasks(opened.model, opened.tokenizer, [name], index=index, context=64, batch_size=2)

    with pytest.raises(DownloadFailed, match=r"the data of scripted .* scripts are no longer"):
        tried("scripted")
    with pytest.raises(DownloadFailed, match=r"the data of unnamed .* BuilderConfig 'x' not found"):
        tried("unnamed")

    def failing(*found: object) -> None:
        raise ValueError("the model's own")

    with opened.model.register_forward_hook(failing), pytest.raises(ValueError, match="own"):
        tried("local_questions")
