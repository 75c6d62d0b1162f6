"""`eval` and `generate` of language models with targets, data and options that cannot be used."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import (
    DATA,
    THRESHOLD,
    USAGE,
    Run,
    child_command,
    refuse,
    write_bundle,
    write_decoder,
)
from tests.images import OPTIONS, write_classifier, write_images
from tests.tasks.causal_lm.helpers import (
    questions,
    write_lines,
    write_model,
    write_questions,
    write_texts,
    write_tokenizer,
)

Denied = Callable[..., str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model")


@pytest.fixture
def denied(run: Run, tmp_path: Path, model: Path) -> Denied:
    """`eval` of the tiny decoder refuses; ``--data`` is a file of good texts by default."""
    texts = write_texts(tmp_path / "texts.jsonl")

    def refused(
        code: str, *says: str, data: object = texts, status: int = DATA, flags: Any = ()
    ) -> str:
        arguments = ("eval", model, "--data", data, *flags)
        return refuse(run, tmp_path, *arguments, status=status, code=code, says=says)

    return refused


def test_a_report(run: Run, tmp_path: Path, model: Path) -> None:
    texts = write_texts(tmp_path / "texts.jsonl")
    asked = write_questions(tmp_path / "asked.jsonl")
    arguments = ("eval", model, "--data", asked, "--data", texts, "--limit", 2)
    report = json.loads(run(*arguments, "--json", "--context", 20, "--stride", 5).stdout)
    (text,), (choices,) = report["perplexity"], report["choices"]
    assert (text["num_documents"], text["context"], text["stride"]) == (2, 20, 5)
    assert (choices["num_questions"], choices["context"]) == (2, 20)
    assert (report["dtype"], report["batch_size"], report["tasks"]) == ("float32", 8, [])
    shown = run(*arguments, "--precision", "bf16")
    assert "llama: bfloat16 on cpu" in shown.stdout
    for name in ("perplexity", "bits per byte", "acc_norm", f"{texts}: windows of 64 tokens"):
        assert name in shown.stdout


def test_a_bundle_and_its_source_say_the_same(run: Run, tmp_path: Path) -> None:
    plan = "version: 1\nmapping: interpolate\nfactor: 2\nadapter: {dim: 4}\nstart: identity\n"
    bundle = write_bundle(tmp_path, "qwen3", plan)
    words = write_tokenizer(tmp_path / "words")
    texts = write_texts(tmp_path / "texts.jsonl")
    arguments = ("--data", texts, "--tokenizer", words, "--json")
    scaled, source = (
        json.loads(run("eval", target, *arguments).stdout)["perplexity"][0]
        for target in (bundle, tmp_path / "qwen3")
    )
    assert scaled["loss"] == source["loss"]
    says = ("the folder has no tokenizer", f"where: {bundle}", "--tokenizer FOLDER")
    without = ("eval", bundle, "--data", texts)
    refuse(run, tmp_path, *without, status=DATA, code="checkpoint-incomplete", says=says)
    without = ("generate", bundle, "--prompt", "the")
    refuse(run, tmp_path, *without, status=DATA, code="checkpoint-incomplete", says=says)
    flags = (*without, "--arch", "x")
    assert run(*flags).exit_code == USAGE  # no such option


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"txt": "a"}, "the field text is missing, and has to be a text"),
        ({"text": 5}, "the field text is a number"),
        ({"instruction": "a", "output": "b"}, "a record to finetune on among texts"),
        ({"query": "a", "choices": ["a", "b"]}, "a question among texts"),
    ],
)
def test_a_record_that_is_no_text(
    denied: Denied, tmp_path: Path, row: dict[str, object], says: str
) -> None:
    path = write_lines(tmp_path / "x.jsonl", [{"text": "the cat"}, row])
    denied("data-unreadable", says, f"where: {path}:2", data=path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold": None}, "gold has to be the right choice's position, 0 to 2"),
        ({"gold": 3}, "0 to 2, not 3"),
        ({"choices": ["one"]}, "2 choices or more, not 1"),
        ({"choices": ["one", ""]}, "none of them empty"),
        ({"query": 3}, "the field query is a number"),
    ],
)
def test_a_record_that_is_no_question(
    denied: Denied, tmp_path: Path, change: dict[str, object], says: str
) -> None:
    rows = questions(3)
    path = write_lines(tmp_path / "x.jsonl", [*rows[:2], {**rows[1], **change}])
    denied("data-unreadable", says, f"where: {path}:3", "hint:", data=path)
    without = write_lines(tmp_path / "x.jsonl", [{k: rows[1][k] for k in ("query", "choices")}])
    denied("data-unreadable", "the field gold is missing", f"where: {path}:1", data=without)


def test_a_kind_of_records_does_not_depend_on_their_order(
    run: Run, tmp_path: Path, model: Path
) -> None:
    rows = [{"text": "the cat"}, {"text": "the dog", "query": "where?", "gold": 0}]
    for given in (rows, rows[::-1]):
        path = write_lines(tmp_path / "x.jsonl", given)
        report = json.loads(run("eval", model, "--data", path, "--json").stdout)
        assert (report["perplexity"][0]["num_documents"], report["choices"]) == (2, [])


def test_data_that_are_none(denied: Denied, tmp_path: Path) -> None:
    empty, latin, words = (tmp_path / name for name in ("e.jsonl", "l.jsonl", "w.jsonl"))
    empty.write_text("\n")
    latin.write_bytes(b'{"text": "caf\xe9"}')
    denied("data-not-found", "there is no such data", data=tmp_path / "gone.jsonl")
    denied("data-unreadable", "there is no record", data=empty)
    denied("data-unreadable", "not readable as JSON", f"where: {latin}:1", data=latin)
    write_texts(words, ["", "the", ""])
    denied("data-unreadable", "none of 3 documents has two tokens", data=words)
    flags = ("--split", "train")
    denied("option", "--split train is for data with splits", status=USAGE, flags=flags, data=words)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_texts(folder / "train.jsonl")
    denied("data-not-found", "no validation.jsonl, but train", data=folder)


def test_a_choice_that_is_too_long(denied: Denied, tmp_path: Path) -> None:
    row = {"query": "a", "choices": ["the cat " * 50, "b"], "gold": 0}
    path = write_lines(tmp_path / "x.jsonl", [row])
    denied("data-unreadable", "tokens, but the context has 64", f"where: {path}:1", data=path)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--mean", "0,0,0"), "--mean is for image classifiers, but this is a language model"),
        (("--workers", "2"), "--workers is for image classifiers"),
        (("--confusion", "c.csv"), "--confusion is for image classifiers"),
        (("--context", "65"), "--context is 65, but the model is made for 2 to 64 tokens"),
        (("--stride", "64"), "--stride is 64, and has to be from 1 to 63"),
        (("--num-fewshot", "2"), "--num-fewshot is for --tasks"),
        (("--apply-chat-template",), "--apply-chat-template is for --tasks"),
        (("--include-path", "."), "--include-path is for --tasks"),
        (("--arch", "x"), "--arch and --model-kwargs are for timm models"),
        (("--fail-under", "top1=5"), "top1=5 is no threshold"),
        (("--fail-under", "acc=60"), "from 0 to 1"),
        (("--fail-under", "acc=0.6"), "names acc, but these data give bits_per_byte, loss"),
        (("--fail-under", "perplexity=-1"), "0 or more"),
        (("--tasks", "piqa,piqa"), "--tasks has piqa twice"),
    ],
)
def test_options_that_cannot_be(denied: Denied, flags: tuple[str, ...], says: str) -> None:
    denied("option", says, status=USAGE, flags=flags)


def test_a_model_and_data_of_different_kinds(run: Run, denied: Denied, tmp_path: Path) -> None:
    images = write_images(tmp_path / "data" / "val", "ab", 4).parent
    says = "a language model does not classify images"
    denied("option", says, "has no records", status=USAGE, data=images)
    archive = tmp_path / "x.tar"
    archive.write_bytes(b"")
    denied("option", says, status=USAGE, data=archive)
    checkpoint = write_classifier(tmp_path)[0]
    texts = write_texts(tmp_path / "texts.jsonl")
    arguments = ("eval", checkpoint, *OPTIONS["vit"])
    fact = ("the model classifies images, but", "is a file of text")
    given = (*arguments, "--data", texts)
    refuse(run, tmp_path, *given, status=USAGE, code="option", says=fact)
    for flag, value in (("--tasks", "piqa"), ("--context", "8"), ("--tokenizer", tmp_path)):
        given = (*arguments, "--data", images, flag, value)
        fact = (f"{flag} is for language models, but this is an image classifier",)
        refuse(run, tmp_path, *given, status=USAGE, code="option", says=fact)
    given = (*arguments, "--data", images, "--data", images)
    refuse(run, tmp_path, *given, status=USAGE, code="option", says=("--data is given 2 times",))
    given = ("generate", checkpoint, "--prompt", "a")
    refuse(run, tmp_path, *given, status=DATA, code="ambiguous-architecture")
    given = ("generate", write_bundle(tmp_path), "--prompt", "a")
    fact = ("a model of the family vit is no language model",)
    refuse(run, tmp_path, *given, status=USAGE, code="option", says=fact)


def test_a_vocabulary_of_another_model(run: Run, tmp_path: Path) -> None:
    small = write_decoder(tmp_path / "model")
    write_tokenizer(small, size=90)
    says = ("tokens, but the model's embedding has 64 rows", "another model's tokenizer")
    for arguments in (("eval", small, "--data", write_texts(tmp_path / "x.jsonl")),
                      ("generate", small, "--prompt", "the")):  # fmt: skip
        refuse(run, tmp_path, *arguments, status=DATA, code="architecture-mismatch", says=says)


def test_nothing_to_measure_on(run: Run, tmp_path: Path, model: Path) -> None:
    says = ("--data is missing", "--tasks names of lm-eval")
    refuse(run, tmp_path, "eval", model, status=USAGE, code="option", says=says)


def test_missed_thresholds(run: Run, tmp_path: Path, model: Path) -> None:
    texts, asked = write_texts(tmp_path / "t.jsonl"), write_questions(tmp_path / "q.jsonl")
    arguments = ("eval", model, "--data", texts, "--data", asked, "--json", "--fail-under")
    result = run(*arguments, "perplexity=1,acc=1,bits_per_byte=100")
    assert result.exit_code == THRESHOLD
    assert '"perplexity": ' in result.stdout
    assert f"error[threshold-missed]: perplexity on {texts} is " in result.stderr
    assert f"; acc on {asked} is " in result.stderr
    assert "bits_per_byte" not in result.stderr
    assert run(*arguments, "perplexity=1e9,acc=0,acc_norm=0,loss=50").exit_code == 0


def test_generate_writes_text_alone(run: Run, tmp_path: Path, model: Path) -> None:
    arguments = ("generate", model, "--prompt", "the cat", "--max-new-tokens", 5)
    text = run(*arguments)
    report = json.loads(run(*arguments, "--json").stdout)
    assert (text.exit_code, text.stderr) == (0, "")
    assert text.stdout == report["text"] + "\n"
    assert (report["prompt"], report["tokens"]) == ("the cat", 5)
    for flags, says in (
        (("--prompt", ""), "the prompt is empty"),
        (("--prompt", "cat " * 100), "but the model's context has 64"),
        (("--prompt", "a", "--template", "chat"), "the tokenizer has no chat template"),
        (("--prompt", "a", "--system", "b"), "the prompt's template is none"),
        (("--prompt", "a", "--top-k", 3), "--top-k chooses among tokens"),
        (("--prompt", "a", "--temperature", "nan"), "--temperature is nan"),
    ):
        given = ("generate", model, *flags)
        refuse(run, tmp_path, *given, status=USAGE, code="option", says=(says,))


@pytest.mark.slow
def test_generate_in_a_pipe(tmp_path: Path, model: Path) -> None:
    arguments = ("generate", model, "--prompt", "-", "--temperature", 3, "--max-new-tokens", 40)
    command = child_command(*arguments)
    whole = subprocess.run(command, input=b"the cat\n", capture_output=True, check=True)
    assert whole.stdout.endswith(b"\n")
    assert whole.stderr == b""
    command = child_command("generate", model, "--prompt", "the")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.slow
def test_generate_is_interrupted(tmp_path: Path) -> None:
    config = {"max_position_embeddings": 200_000, "eos_token_id": None}
    model = write_model(tmp_path / "long", **config)
    arguments = ("generate", model, "--prompt", "the", "--max-new-tokens", 190_000)
    arguments += ("--temperature", 3)  # spaces among it: text is handed out word by word
    # A shell that runs things in the background lets them ignore the signal.
    heard = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL)"
    command = child_command(*arguments, prelude=heard)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        try:
            _, stderr = process.communicate(timeout=30)
        finally:
            process.kill()
    assert process.returncode == 130
    assert b"Traceback" not in stderr
