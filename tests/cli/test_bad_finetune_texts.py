"""Records, recipes and options that a run of a language model cannot use: no run is made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli import verify
from tests.cli.helpers import DATA, USAGE, Run, refuse
from tests.training.texts import (
    CHAT,
    instructions,
    write_language_bundle,
    write_records,
    write_texts,
    write_tokenizer,
)

SHORT = ("--max-steps", 1, "--batch-size", 4, "--set", "max_length=24", "--set", "template=none")


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``out``, a bundle with its tokenizer, and ``data`` of two splits."""
    folder = tmp_path_factory.mktemp("texts")
    write_language_bundle(folder / "out")
    write_texts(folder / "data")
    return folder


def command(ground: Path, folder: Path, *more: Any, data: Path | None = None) -> tuple[Any, ...]:
    data = data or ground / "data"
    return ("finetune", ground / "out", "--data", data, "-o", folder / "run", *SHORT, *more)


def broken(text: str) -> Callable[[Path], Path]:
    """A file of 40 good records and what follows them."""

    def write(folder: Path) -> Path:
        path = write_records(folder / "data.jsonl", instructions(40))
        path.write_text(path.read_text() + text)
        return path

    return write


FILES: list[tuple[Callable[[Path], Path], str, tuple[str, ...]]] = [
    (lambda folder: folder / "no.jsonl", "data-not-found", ("no.jsonl",)),
    (broken('{"question": "w5"}\n'), "data-unreadable", ("data.jsonl:41", "question", "messages")),
    (broken('{"instruction": "w5"}\n'), "data-unreadable", ("data.jsonl:41", "output is missing")),
    (broken('{"messages": []}\n'), "data-unreadable", ("data.jsonl:41", "list of turns")),
    (broken('{"instruction": '), "data-unreadable", ("data.jsonl:41", "JSON")),
    (broken("[1]\n"), "data-unreadable", ("data.jsonl:41", "an object was expected")),
    (lambda folder: write_records(folder / "data.jsonl", []), "data-unreadable", ("no record",)),
    (
        lambda folder: write_records(
            folder / "data.jsonl", [{"instruction": "w5", "output": ""}] * 40
        ),
        "data-unreadable",
        ("38 have no answer", "max_length"),
    ),
    (
        lambda folder: write_records(folder / "train.jsonl", instructions(3)).parent,
        "option",
        ("of 3 records val_share 0.05 holds 0 out", "--val-data"),
    ),
    (
        lambda folder: write_records(folder / "data.jsonl", instructions(4)),
        "option",
        ("of 4 records", "val_share", "another --set val_share"),
    ),
    (
        lambda folder: write_records(folder / "data.jsonl", instructions(1)),
        "option",
        ("of 1 records", "give --val-data, or more records than one"),
    ),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("write", "code", "says"), FILES)
def test_data(
    run: Run, ground: Path, tmp_path: Path, write: Callable[[Path], Path], code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    data = write(tmp_path / "data")
    status = USAGE if code == "option" else DATA
    arguments = command(ground, tmp_path, data=data)
    refuse(run, tmp_path, *arguments, status=status, code=code, says=says)


OPTIONS: list[tuple[tuple[Any, ...], str, tuple[str, ...]]] = [
    (("--set", "mixup=1"), "plan-schema", ("unknown key `mixup`",)),
    (("--drop-path", 0.1), "plan-schema", ("unknown key `drop_path`",)),
    (("--recipe", "training/paper"), "plan-schema", ("the recipe is for image-classification",)),
    (("--dataset", "hfds/x"), "option", ("--dataset is for image classifiers",)),
    (("--class-map", "x.txt"), "option", ("--class-map is for image classifiers",)),
    (("--reset-head",), "option", ("--reset-head is for image classifiers",)),
    (("--num-classes", 3), "option", ("--num-classes is for image classifiers",)),
    (("--skip-corrupt",), "option", ("--skip-corrupt is for image classifiers",)),
    (("--data-digest",), "option", ("--data-digest is for image classifiers",)),
    (("--val-split", "dev"), "data-not-found", ("no dev.jsonl", "train, validation")),
]


@pytest.mark.parametrize(("options", "code", "says"), OPTIONS)
def test_options(
    run: Run, ground: Path, tmp_path: Path, options: tuple[Any, ...], code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    arguments = command(ground, tmp_path, *options)
    status = DATA if code == "data-not-found" else USAGE
    refuse(run, tmp_path, *arguments, status=status, code=code, says=says)


@pytest.mark.parametrize("option", ["--train-split", "--val-split"])
def test_a_split_of_a_file(run: Run, ground: Path, tmp_path: Path, option: str) -> None:
    data = write_records(tmp_path / "data.jsonl", instructions(40))
    arguments = command(ground, tmp_path, option, "dev", data=data)
    says = (f"{option} dev is for data with splits", "data.jsonl has none")
    refuse(run, tmp_path, *arguments, status=USAGE, code="option", says=says)


@pytest.mark.parametrize(
    ("settings", "code", "says"),
    [
        ("template=chat", "option", ("no chat template",)),
        ("template=llama", "plan-schema", ("template is 'llama'",)),
        ("max_length=65", "option", ("max_length is 65", "64 tokens")),
        ("max_length=1", "plan-schema", ("max_length",)),
        ("val_share=1", "plan-schema", ("val_share",)),
    ],
)
def test_settings(
    run: Run, ground: Path, tmp_path: Path, settings: str, code: str, says: tuple[str, ...]
) -> None:
    base = ("finetune", ground / "out", "--data", ground / "data", "-o", tmp_path / "run")
    refuse(run, tmp_path, *base, "--set", settings, status=USAGE, code=code, says=says)


def test_a_batch_that_is_larger_than_the_data(run: Run, ground: Path, tmp_path: Path) -> None:
    base = ("finetune", ground / "out", "--data", ground / "data", "-o", tmp_path / "run")
    more = ("--batch-size", 64, "--set", "template=none")
    says = ("34 samples", "--batch-size 34 or less")
    refuse(run, tmp_path, *base, *more, status=DATA, code="no-batch", says=says)


def test_a_bundle_without_a_tokenizer(run: Run, tmp_path: Path, ground: Path) -> None:
    from scalenet_cli import expand_checkpoint
    from scalenet_cli.plan.load import plan_from_dict
    from tests.training.runs import PLAN

    source = tmp_path / "source"
    shutil.copytree(ground / "out-source", source)
    for path in source.glob("tokenizer*"):
        path.unlink()
    expand_checkpoint(source, plan_from_dict(dict(PLAN)), tmp_path / "out")
    arguments = ("finetune", tmp_path / "out", "--data", ground / "data", "-o", tmp_path / "run")
    says = ("no tokenizer", "--tokenizer FOLDER")
    refuse(run, tmp_path, *arguments, status=DATA, code="checkpoint-incomplete", says=says)
    elsewhere = (*SHORT, "--tokenizer", ground / "out-source")
    told = run(*arguments, *elsewhere)
    assert told.exit_code == 0
    assert "the run's bundles get tokenizer.json, tokenizer_config.json of" in told.stderr
    for name in ("start", "best", "last"):
        verify(tmp_path / "run" / name)
    written = run("generate", tmp_path / "run", "--prompt", "w5 w6", "--max-new-tokens", 2)
    assert written.exit_code == 0
    assert run(*arguments, *elsewhere, "--resume").exit_code == 0
    again = run(*arguments, *SHORT, "--resume")  # with the tokenizer that it began with
    assert (again.exit_code, "the run's bundles get" in again.stderr) == (0, False)
    (tmp_path / "words").mkdir()
    write_tokenizer(tmp_path / "words", ends=True)
    others = (*SHORT, "--tokenizer", tmp_path / "words", "--resume")
    refuse(run, tmp_path, *arguments, *others, status=USAGE, code="run-differs", says=("bundle",))


def test_a_link_beside_a_bundle_goes_nowhere(run: Run, tmp_path: Path) -> None:
    bundle = write_language_bundle(tmp_path / "out")
    (tmp_path / "secret").write_text("weeks of work")
    (bundle / "tokenizer_notes.txt").symlink_to(tmp_path / "secret")
    data = write_records(tmp_path / "data.jsonl", instructions(40))
    arguments = ("finetune", bundle, "--data", data, "-o", tmp_path / "run", *SHORT)
    says = ("tokenizer_notes.txt is a link", "do not trust this bundle")
    refuse(run, tmp_path, *arguments, status=DATA, code="bundle-path-unsafe", says=says)


def test_a_template_beside_a_bundle_goes_into_the_run(run: Run, tmp_path: Path) -> None:
    bundle = write_language_bundle(tmp_path / "out")
    (bundle / "chat_template.jinja").write_text(CHAT)
    data = write_records(tmp_path / "data.jsonl", instructions(40))
    arguments = ("finetune", bundle, "--data", data, "-o", tmp_path / "run", *SHORT[:-2])
    told = run(*arguments, "--set", "template=chat")
    assert told.exit_code == 0, told.stderr
    assert "the run's bundles get chat_template.jinja of" in told.stderr
    assert (tmp_path / "run" / "best" / "chat_template.jinja").read_text() == CHAT
    verify(tmp_path / "run" / "last")


def test_a_run_of_other_texts_does_not_go_on(run: Run, ground: Path, tmp_path: Path) -> None:
    assert run(*command(ground, tmp_path)).exit_code == 0
    other = write_records(tmp_path / "other" / "train.jsonl", instructions(34, seed=7)).parent
    write_records(other / "validation.jsonl", instructions(13, seed=1))
    says = ("train data: other samples or targets",)
    arguments = command(ground, tmp_path, "--resume", data=other)
    refuse(run, tmp_path, *arguments, status=USAGE, code="run-differs", says=says)
    longer = (*command(ground, tmp_path, "--resume")[:6], "--resume", "--set", "max_length=20")
    refuse(run, tmp_path, *longer, status=USAGE, code="run-differs", says=("max_length: 24 -> 20",))
    again = run(*command(ground, tmp_path, "--resume"), "--json")
    assert json.loads(again.stdout)["steps"] == 1


def test_images_refuse_what_is_for_texts(run: Run, tmp_path: Path) -> None:
    from tests.cli.finetuning import command as images
    from tests.cli.finetuning import write_ground

    (tmp_path / "ground").mkdir()
    ground = write_ground(tmp_path / "ground")
    for option, code, says in (
        (("--val-data", "x.jsonl"), "option", ("--val-data is for language models",)),
        (("--set", "max_length=5"), "plan-schema", ("unknown key `max_length`",)),
        (("--recipe", "training/alpaca"), "plan-schema", ("the recipe is for causal-lm",)),
    ):
        arguments = images(ground, tmp_path / "run", *option)
        refuse(run, tmp_path, *arguments, status=USAGE, code=code, says=says)
