"""Recipes, options, bundles and outputs that `finetune` cannot use: no run is made."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.finetuning import command, without, write_ground
from tests.cli.helpers import (
    DATA,
    USAGE,
    WITHOUT_ROOTS_RIGHTS,
    Run,
    assert_refusal,
    child,
    refuse,
    short,
    write_bundle,
)
from tests.training.test_world import OPEN_MPI


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ground(tmp_path_factory.mktemp("ground"))


def refuse_options(
    run: Run, ground: Path, folder: Path, *options: object, code: str, says: tuple[str, ...] = (),
    status: int = USAGE, left_out: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """No run is made: not even its folder."""
    arguments = ("finetune", ground / "out", "--data", ground / "data", "-o", folder / "run")
    refuse(
        run, folder, *arguments, *without(*left_out), *options, status=status, code=code, says=says
    )


RECIPES: list[tuple[str | bytes, str, tuple[str, ...]]] = [
    ("epoch: 3\n", "plan-schema", ("unknown key `epoch`", "yaml:1", "did you mean `epochs`?\n")),
    ("seed: 1\nopt: adamww\n", "plan-schema", ("yaml:2  opt", "did you mean `adamw`?")),
    ("lr: fast\n", "plan-schema", ("got 'fast'", "yaml:1  lr")),
    ("epochs: 1.5\n", "plan-schema", ("fractional part",)),
    ("lr: true\n", "plan-schema", ("a number is needed here, not a yes or no",)),
    ("seed: no\n", "plan-schema", ("a number is needed here, not a yes or no",)),
    ("aa: no\n", "plan-schema", ("valid string (got False)",)),
    ("seed: 1\nlr: 1\nlr: 2\n", "plan-syntax", ("`lr` stands twice", "yaml:3")),
    ("version: 2\n", "plan-schema", ("version is 2", "valid values here: 1")),
    ("lr: 0\nseed: -1\n", "plan-schema", ("yaml:1  lr", "yaml:2  seed")),
    ("opt_betas: [0.9]\n", "plan-schema", ("two numbers are needed here", "opt_betas")),
    ("opt_betas: [0.9, 1]\n", "plan-schema", ("less than 1", "opt_betas[1]")),
    ("scale: 0.5\n", "plan-schema", ("two numbers are needed here", "scale")),
    ("scale: [1, 0.5]\n", "plan-schema", ("the smaller number comes first",)),
    ("train: heads\n", "plan-schema", ("train is 'heads'", "[head]")),
    ("train: [heads]\n", "plan-schema", ("train[0] is 'heads'", "head")),
    ("train: []\n", "plan-schema", ("train is empty",)),
    ("aa: rand-mX\n", "plan-schema", ("rand-m9-mstd0.5-inc1",)),
    ("opt: sgd\nmomentum: 0\n", "plan-schema", ("`opt: momentum` with momentum 0",)),
    ("recount: 99999999\n", "plan-schema", ("less than or equal to 1000",)),
    ("lr: 1e-7\n", "plan-schema", ("min_lr 2e-06 is larger than lr 1e-07",)),
    ("", "plan-syntax", ("the file is empty",)),
    ("[lr, 1]\n", "plan-schema", ("a mapping of keys to values",)),
    ("a" * 300_000, "plan-unreadable", ("larger than 256 KiB",)),
    (b"\x89PNG\r\n\xff", "plan-unreadable", ("cannot be read",)),
    ("lr: !!python/object:os.system {}\n", "plan-syntax", ("yaml:1",)),
]


@pytest.mark.sample(4)
@pytest.mark.parametrize(("text", "code", "says"), RECIPES, ids=short)
def test_recipe_file(
    run: Run, ground: Path, tmp_path: Path, text: str | bytes, code: str, says: tuple[str, ...]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    refuse_options(run, ground, tmp_path, "--recipe", path, code=code, says=says)


SETTINGS: list[tuple[tuple[object, ...], str, tuple[str, ...]]] = [
    (("--recipe", "nothing"), "unknown-recipe", ("called nothing",)),
    (("--recipe", "nothing.yaml"), "plan-unreadable", ("no such recipe file",)),
    (("--recipe", "/"), "plan-unreadable", ("Is a directory",)),
    (("--set", "seed"), "option", ("not of the form key=value",)),
    (("--set", "=1"), "option", ("not of the form key=value",)),
    (("--set", "lr="), "plan-schema", ("a flag or --set  lr",)),
    (("--set", "lr=["), "option", ("no YAML value",)),
    (("--set", "lr=a: b"), "option", ("no YAML value",)),
    (("--set", "lr=1\nepochs: 3"), "option", ("no YAML value",)),
    (("--set", "lrr=1"), "plan-schema", ("unknown key `lrr`", "did you mean `lr`?")),
    (("--set", "lr=1", "--lr", 1), "option", ("lr is given by its flag and by --set",)),
    (("--set", "lr=1", "--set", "lr=2"), "option", ("--set gives lr twice",)),
    (("--set", "log_steps=0"), "plan-schema", ("greater than 0", "log_steps")),
    (("--set", "train=[gates]"), "option", ("train names gates", "groups of this model: shared")),
    (("--lr", 0), "plan-schema", ("greater than 0", "a flag or --set  lr")),
    (("--lr", "nan"), "plan-schema", ("finite number",)),
    (("--lr", "inf"), "plan-schema", ("finite number",)),
    (("--weight-decay", -1), "plan-schema", ("greater than or equal to 0", "weight_decay")),
    (("--drop-path", 1), "plan-schema", ("less than 1", "drop_path")),
    (("--ema-decay", 1), "plan-schema", ("less than 1", "ema_decay")),
    (("--accumulate", 0), "plan-schema", ("greater than 0", "accumulate")),
    (("--accumulate", 3), "plan-schema", ("accumulate 3 does not divide batch_size 4",)),
    (("--save-steps", 0), "plan-schema", ("greater than 0", "save_steps")),
    (("--device", "cuda:99"), "device-unavailable", ("--device cuda:99", "available: cpu")),
    (("--device", "cpu:x"), "device-unavailable", ("--device cpu:x",)),
    (("--device", "toaster"), "device-unavailable", ("available: cpu", "torch ")),
    (("--num-classes", 3), "option", ("--num-classes 3 is too few: the data have 5 classes",)),
    (("--num-classes", 10**12), "option", ("1,000,000,000,000 classes",)),
    (("--train-split", ""), "option", ("--train-split",)),
    (("--val-split", "."), "option", ("--val-split . names no split",)),
]  # fmt: skip


@pytest.mark.sample(4)
@pytest.mark.parametrize(("options", "code", "says"), SETTINGS, ids=short)
def test_flags_and_settings(
    run: Run, ground: Path, tmp_path: Path, options: tuple[object, ...], code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    refuse_options(run, ground, tmp_path, *options, code=code, says=says)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("options", "status", "code", "says"),
    [
        (("--epochs", 0), USAGE, "plan-schema", ("greater than 0", "epochs")),
        (("--max-steps", 0), USAGE, "plan-schema", ("greater than 0", "max_steps")),
        (("--epochs", 10**12), USAGE, "plan-schema", ("less than or equal to", "epochs")),
        (("--warmup-epochs", 2), USAGE, "plan-schema", ("warmup_epochs 2 exceeds epochs 1",)),
        (("--batch-size", 0), USAGE, "plan-schema", ("greater than 0", "batch_size")),
        (("--batch-size", 5), USAGE, "option", ("a device gets 5 at a time", "an even batch")),
        (("--batch-size", 17), DATA, "no-batch", ("have 16 samples, but a batch is 17",)),
        (("--batch-size", 4, "--limit-train", 3), DATA, "no-batch", ("3 samples",)),
    ],
    ids=short,
)
def test_numbers_that_fit_no_step(
    run: Run, ground: Path, tmp_path: Path, options: tuple[object, ...], status: int, code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    refuse_options(
        run, ground, tmp_path, *options, status=status, code=code, says=says,
        left_out=(str(options[0]),),
    )  # fmt: skip


@pytest.mark.parametrize(
    "options", [("--seed", -1), ("--limit-train", 0), ("--workers", -1), ("--precision", "fp8")]
)
def test_options_that_typer_refuses(
    run: Run, ground: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    result = run(*command(ground, tmp_path / "run", *options))
    assert (result.exit_code, result.stdout) == (USAGE, "")
    assert f"Invalid value for '{options[0]}'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_yaml_1_1_numbers_are_numbers(run: Run, ground: Path, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("lr: 1e-4\ndeterministic: yes\nmin_lr: 1_0e-7\n")
    ended = run(*command(ground, tmp_path / "run", "--recipe", tmp_path / "r.yaml"))
    assert ended.exit_code == 0, ended.stderr
    kept = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "lr: 0.0001\n" in kept
    assert "deterministic: true\n" in kept


def test_gpus_that_are_not_there(run: Run, ground: Path, tmp_path: Path) -> None:
    refuse_options(
        run,
        ground,
        tmp_path,
        "--gpus",
        99,
        code="device-unavailable",
        says=("--gpus 99 was asked",),
    )


@pytest.mark.parametrize("names", [{"LOCAL_RANK": "0"}, OPEN_MPI], ids=["torchrun", "mpirun"])
def test_gpus_under_a_launcher(
    run: Run, ground: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: dict[str, str]
) -> None:
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    refuse_options(
        run, ground, tmp_path, "--gpus", 1, code="option", says=("a launcher has started",)
    )


@pytest.mark.parametrize("options", [("--lr", 1e30), ("--set", "opt_eps=1e-300")], ids=short)
def test_a_step_that_diverges_is_never_a_bundle(
    run: Run, ground: Path, tmp_path: Path, options: tuple[object, ...]
) -> None:
    # Two steps without a log line between them: the evaluation is the first to see it.
    ended = run(*command(ground, tmp_path / "run", *options))
    assert ended.exit_code == DATA, ended.stderr
    assert "error[loss-not-finite]: " in ended.stderr
    assert "hint:" in ended.stderr
    assert {path.name for path in (tmp_path / "run").iterdir()}.isdisjoint({"last", "best"})


def _no_bundle(folder: Path) -> Path:
    return folder / "nothing"


def _a_checkpoint(folder: Path) -> Path:
    write_bundle(folder)
    return folder / "vit.safetensors"


def _a_language_model(folder: Path) -> Path:
    return write_bundle(folder, "llama")


def _a_damaged_bundle(folder: Path) -> Path:
    path = write_bundle(folder) / "adapters.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path.parent


BUNDLES: list[tuple[Callable[[Path], Path], int, str, tuple[str, ...]]] = [
    (_no_bundle, DATA, "not-a-bundle", ("scalenet expand",)),
    (_a_checkpoint, DATA, "not-a-bundle", ("scalenet expand",)),
    (_a_language_model, DATA, "checkpoint-incomplete", ("the folder has no tokenizer",)),
    (_a_damaged_bundle, DATA, "bundle-digest-mismatch", ("not what was written",)),
]


@pytest.mark.parametrize(("make", "status", "code", "says"), BUNDLES, ids=short)
def test_bundle(
    run: Run, ground: Path, tmp_path: Path, make: Callable[[Path], Path], status: int, code: str,
    says: tuple[str, ...],
) -> None:  # fmt: skip
    arguments: list[Any] = list(command(ground, tmp_path / "run"))
    arguments[1] = make(tmp_path)
    message = refuse(run, tmp_path, *arguments, status=status, code=code, says=says)
    assert str(arguments[1]) in message


def _folder_with_a_file(path: Path) -> None:
    path.mkdir()
    (path / "thesis.txt").write_text("x")


def _file(path: Path) -> None:
    path.write_text("x")


def _link(path: Path) -> None:
    path.with_name("elsewhere").mkdir()
    path.symlink_to("elsewhere")


def _broken_link(path: Path) -> None:
    path.symlink_to("nowhere")


@pytest.mark.parametrize("make", [_folder_with_a_file, _file, _link, _broken_link], ids=short)
@pytest.mark.parametrize("options", [(), ("--resume",)], ids=["new", "resume"])
def test_output_that_is_taken(
    run: Run, ground: Path, tmp_path: Path, make: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    make(tmp_path / "run")
    says = ("the output exists already", f"where: {tmp_path / 'run'}", "choose another -o")
    arguments = command(ground, tmp_path / "run", *options)
    refuse(run, tmp_path, *arguments, status=USAGE, code="run-exists", says=says)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("x" * 300, ("File name too long",)),
        ("file/run", ("cannot be made",)),
    ],
    ids=["long", "below a file"],
)
def test_output_that_cannot_be(
    run: Run, ground: Path, tmp_path: Path, name: str, says: tuple[str, ...]
) -> None:
    (tmp_path / "file").write_text("x")
    arguments = command(ground, tmp_path / name)
    refuse(run, tmp_path, *arguments, status=DATA, code="output-unwritable", says=says)


def test_a_missing_parent_is_made_and_an_empty_folder_is_used(
    run: Run, ground: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "new/deep/run"):
        ended = run(*command(ground, tmp_path / name))
        assert ended.exit_code == 0, ended.stderr
        assert (tmp_path / name / "last" / "manifest.json").is_file()


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
@pytest.mark.slow
def test_output_without_permission(ground: Path, tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    ended = child(*command(ground, locked / "run"), prelude=WITHOUT_ROOTS_RIGHTS)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert f"no permission to write in {locked}" in ended.stderr
    assert list(locked.iterdir()) == []


def test_a_run_without_resume_is_left_alone(run: Run, ground: Path, tmp_path: Path) -> None:
    first = command(ground, tmp_path / "run")
    assert run(*first).exit_code == 0
    says = ("the output holds a run already", "add --resume")
    refuse(run, tmp_path, *first, status=USAGE, code="run-exists", says=says)
