"""Runs that cannot be resumed: other than they began, damaged, or made by somebody else."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.cli.progress import TerminalReporter
from tests.cli.finetuning import command, write_ground
from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    in_use,
    read_header,
    refuse,
    short,
    snapshot,
    write_bundle,
)
from tests.conftest import PLAN
from tests.training.runs import HEAD_NOTE, contents

OPTIONS = ("--ema-decay", 0.9)
Damage = Callable[[Path], Any]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def made(ground: Path) -> Path:
    """A finished run; tests change copies of it."""
    from typer.testing import CliRunner

    from scalenet_cli.cli.app import app

    arguments = command(ground, ground / "run", *OPTIONS)
    ended = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert ended.exit_code == 0, ended.stderr
    return ground / "run"


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def refuse_resume(
    run: Run, ground: Path, copy: Path, *options: object, code: str, says: tuple[str, ...],
    status: int = DATA, data: Path | None = None,
) -> None:  # fmt: skip
    """It is refused, and nothing in the folder changes: last/ and best/ are still there."""
    arguments = command(ground, copy, *OPTIONS, "--resume", *options, data=data)
    says = (*says, f"where: {copy}")
    refuse(run, copy, *arguments, status=status, code=code, says=says)


@pytest.mark.parametrize(
    "new", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["resumed", "new"]
)
def test_of_two_trainers_the_second_is_refused(
    run: Run, ground: Path, copy: Path, new: bool
) -> None:
    folder = copy.parent / "new" if new else copy
    arguments = command(ground, folder, *OPTIONS, "--resume")
    says = ("another command is writing there: process ", f"where: {folder}")
    with in_use(folder):
        refuse(run, copy.parent, *arguments, status=DATA, code="output-in-use", says=says)
    assert run(*arguments).exit_code == 0
    assert contents(folder) == contents(copy)
    assert {path.name for path in copy.parent.iterdir()} == {"run", folder.name}


def test_a_finished_run_is_reported_again(run: Run, ground: Path, copy: Path) -> None:
    before = contents(copy)
    arguments = command(ground, copy, *OPTIONS, "--resume", "--json")
    ended = run(*arguments)
    report = json.loads(ended.stdout)
    assert (ended.exit_code, report["steps"], report["classes"]) == (0, 2, "assumed")
    told = "all 2 steps were done before; nothing is trained"
    assert ended.stderr == f"{told}\n"
    assert report["notes"][0].startswith(HEAD_NOTE)
    after = contents(copy)
    assert {**after, "curves.png": ""} == {**before, "curves.png": ""}


def test_a_run_says_where_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    for first, told in ((0, ""), (25, "goes on after step 25 of 1,400\n")):
        TerminalReporter().started(first, 1400)
        assert capsys.readouterr().err == told


def test_resume_keeps_the_recipe_without_its_flags(run: Run, ground: Path, copy: Path) -> None:
    arguments = ("finetune", ground / "out", "--data", ground / "data", "-o", copy, "--resume")
    ended = run(*arguments, "--workers", 0)
    assert ended.exit_code == 0, ended.stderr


def test_resume_where_nothing_is_starts_a_run(run: Run, ground: Path, tmp_path: Path) -> None:
    ended = run(*command(ground, tmp_path / "run", "--resume"))
    assert ended.exit_code == 0, ended.stderr
    assert ended.stderr.count("note: there is no run to resume yet, so a new one is started") == 1


def test_resume_with_moved_data(
    run: Run, ground: Path, copy: Path, tmp_path: Path, made: Path
) -> None:
    shutil.copytree(ground / "data", tmp_path / "moved")
    shutil.rmtree(next(copy.glob("state-*")))  # ended before its first checkpoint
    again = command(ground, copy, *OPTIONS, "--resume", data=tmp_path / "moved")
    ended = run(*again)
    assert ended.exit_code == 0, ended.stderr
    assert contents(copy) == contents(made)


DIFFERENCES: list[tuple[tuple[object, ...], tuple[str, ...]]] = [
    (
        ("--lr", 1, "--drop-path", 0.3, "--limit-train", 8),
        ("lr: 0.0002 -> 1.0", "drop_path: None -> 0.3", "train data: 16 samples -> 8",
         "leave out what changes the recipe; repeat the bundle, the data and those of --limit-"),
    ),
    (("--recipe", "RECIPE"), ("opt: adamw -> sgd", "hint:  leave out what changes the recipe; or")),
    (("--reset-head",), ("a new head: no -> yes", "hint:  repeat the bundle")),
    (("--num-classes", 7), ("classes: 5 -> 7", "a new head: no -> yes")),
]  # fmt: skip


@pytest.mark.parametrize(("options", "says"), DIFFERENCES, ids=short)
def test_other_options(
    run: Run, ground: Path, copy: Path, tmp_path: Path, options: tuple[object, ...],
    says: tuple[str, ...],
) -> None:  # fmt: skip
    (tmp_path / "r.yaml").write_text("opt: sgd\n")
    given = [tmp_path / "r.yaml" if option == "RECIPE" else option for option in options]
    refuse_resume(run, ground, copy, *given, status=USAGE, code="run-differs", says=says)


def test_a_limit_has_to_be_repeated(run: Run, ground: Path, tmp_path: Path) -> None:
    limit = ("--limit-train", 8)
    assert run(*command(ground, tmp_path / "run", *limit)).exit_code == 0
    arguments = command(ground, tmp_path / "run", "--resume")
    says = ("train data: 8 samples -> 16", "hint:  repeat", "--limit-train")
    refuse(run, tmp_path / "run", *arguments, status=USAGE, code="run-differs", says=says)
    assert run(*arguments, *limit).exit_code == 0


def _renamed(data: Path) -> None:
    (data / "train" / "class0" / "000.png").rename(data / "train" / "class0" / "900.png")


def _moved_to_another_class(data: Path) -> None:
    (data / "train" / "class0" / "000.png").rename(data / "train" / "class1" / "000.png")


def _one_less(data: Path) -> None:
    (data / "validation" / "class0" / "000.png").unlink()


def _one_class_less(data: Path) -> None:
    for split in ("train", "validation"):
        shutil.rmtree(data / split / "class4")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_renamed, ("train data: other samples or targets",)),
        (_moved_to_another_class, ("train data: other samples or targets",)),
        (_one_less, ("val data: 6 samples -> 5",)),
        (_one_class_less, ("train data: 16 samples -> 13", "classes: 5 -> 4")),
    ],
    ids=short,
)
def test_other_data(
    run: Run, ground: Path, copy: Path, tmp_path: Path, change: Damage, says: tuple[str, ...]
) -> None:
    data = Path(shutil.copytree(ground / "data", tmp_path / "data"))
    change(data)
    refuse_resume(run, ground, copy, status=USAGE, code="run-differs", says=says, data=data)


def test_another_bundle(run: Run, ground: Path, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    arguments = list(command(ground, copy, *OPTIONS, "--resume"))
    arguments[1] = write_bundle(other, plan=PLAN.replace("dim: 4", "dim: 8"))
    refuse(run, copy, *arguments, status=USAGE, code="run-differs", says=("bundle: digest",))


def state_of(run: Path) -> Path:
    """The folder of the only state."""
    (state,) = run.glob("state-*")
    return state


def _write(name: str, content: Callable[[bytes], bytes]) -> Damage:
    def damage(run: Path) -> None:
        path = state_of(run) / name.removeprefix("state/") if "state/" in name else run / name
        written = content(path.read_bytes())
        path.unlink()  # start/ is linked: never written through
        path.write_bytes(written)

    damage.__name__ = f"{name}: {short(content)}"
    return damage


def _remove(name: str) -> Damage:
    def damage(run: Path) -> None:
        path = state_of(run) / name.removeprefix("state/") if "state/" in name else run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    damage.__name__ = f"no {name}"
    return damage


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def garbage(_: bytes) -> bytes:
    return b"\0\xff garbage"


def deep(_: bytes) -> bytes:
    return b"[" * 100_000


def huge(_: bytes) -> bytes:
    return b" " * 51_000_000


def newer(content: bytes) -> bytes:
    return content.replace(b'"format": 1', b'"format": 2')


DAMAGES: list[tuple[Damage, str, tuple[str, ...]]] = [
    (_write("state/tensors.safetensors", truncated), "run-state-damaged", ("another digest",)),
    (_write("state/tensors.safetensors", flipped), "run-state-damaged", ("another digest",)),
    (_write("state/state.json", truncated), "run-state-damaged", ("state.json",)),
    (_write("state/state.json", garbage), "run-state-damaged", ("state.json",)),
    (_write("state/state.json", deep), "run-state-damaged", ("state.json",)),
    (_write("state/state.json", huge), "run-state-damaged", ("too large",)),
    (_remove("state/state.json"), "run-state-damaged", ("state.json: No such file",)),
    (_remove("state/tensors.safetensors"), "run-state-damaged", ("tensors.safetensors: No such",)),
    (_write("metrics.jsonl", truncated), "run-state-damaged", ("metrics.jsonl has",)),
    (_remove("metrics.jsonl"), "run-state-damaged", ("metrics.jsonl has 0 bytes",)),
    (_write("run.json", garbage), "not-a-run", ("no run.json that this version understands",)),
    (_write("run.json", newer), "not-a-run", ("no run.json that this version understands",)),
    (_write("run.json", deep), "not-a-run", ("no run.json that this version understands",)),
    (_write("start/adapters.safetensors", flipped), "bundle-digest-mismatch", ("start",)),
    (_write("start/manifest.json", truncated), "manifest-unreadable", ("start",)),
    (_remove("start"), "not-a-bundle", ("start",)),
]  # fmt: skip


@pytest.mark.sample(4)
@pytest.mark.parametrize(("damage", "code", "says"), DAMAGES, ids=short)
def test_damaged_run(
    run: Run, ground: Path, copy: Path, damage: Damage, code: str, says: tuple[str, ...]
) -> None:
    damage(copy)
    refuse_resume(run, ground, copy, code=code, says=says)


def without_digests(run: Path) -> None:
    """The run as an earlier version left it."""
    record = json.loads((run / "run.json").read_text())
    for key in ("digest", "recipe"):
        del record[key]
    (run / "run.json").write_text(json.dumps(record))
    path = state_of(run) / "state.json"
    state = json.loads(path.read_text())
    del state["digest"]
    for key in ("metrics_sha256", "bundles"):
        del state["progress"][key]
    path.write_text(json.dumps(state))


@pytest.mark.parametrize("content", [garbage, huge], ids=short)
def test_damaged_recipe(
    run: Run, ground: Path, copy: Path, content: Callable[[bytes], bytes]
) -> None:
    _write("recipe.yaml", content)(copy)
    says = ("recipe.yaml is not what the run began with",)
    refuse_resume(run, ground, copy, code="run-state-damaged", says=says)
    without_digests(copy)
    refuse_resume(run, ground, copy, status=USAGE, code="plan-unreadable", says=("recipe.yaml",))


def test_a_run_of_an_earlier_version_goes_on_with_one_note(
    run: Run, ground: Path, copy: Path
) -> None:
    without_digests(copy)
    ended = run(*command(ground, copy, *OPTIONS, "--resume"))
    assert ended.exit_code == 0, ended.stderr
    assert ended.stderr.count("note: ") == 1
    assert "note: an earlier version saved the state and gave it no digest" in ended.stderr


def test_another_bundle_in_place_of_the_start(
    run: Run, ground: Path, copy: Path, tmp_path: Path
) -> None:
    other = write_bundle(tmp_path, plan=PLAN.replace("dim: 4", "dim: 8"))
    shutil.rmtree(copy / "start")
    other.rename(copy / "start")
    says = ("start/ is not the bundle that run.json names",)
    refuse_resume(run, ground, copy, code="run-state-damaged", says=says)


@pytest.mark.parametrize("name", ["start", "last", "state", "metrics.jsonl", "timings.jsonl"])
def test_links_out_of_the_run(
    run: Run, ground: Path, copy: Path, tmp_path: Path, name: str
) -> None:
    path = state_of(copy) if name == "state" else copy / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    before = snapshot(tmp_path)
    refuse_resume(run, ground, copy, code="not-a-run", says=(f"{path.name} is a link",))
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such pipes")
@pytest.mark.parametrize("name", ["recipe.yaml", "metrics.jsonl", "state/state.json"])
def test_pipes_in_the_run_are_not_waited_for(run: Run, ground: Path, copy: Path, name: str) -> None:
    path = state_of(copy) / "state.json" if name.startswith("state/") else copy / name
    path.unlink()
    os.mkfifo(path)
    ended = run(*command(ground, copy, *OPTIONS), "--resume")
    assert ended.exit_code == DATA, ended.stderr
    assert "error[not-a-run]" in ended.stderr
    assert f"{path.relative_to(copy)} is a pipe or the like" in ended.stderr


def _first(tensors: Tensors, kind: str) -> str:
    return next(key for key in sorted(tensors) if key.startswith(f"{kind}/"))


def another_shape(tensors: Tensors) -> None:
    tensors[_first(tensors, "model")] = torch.zeros(3)


def one_number(tensors: Tensors) -> None:
    tensors[_first(tensors, "model")] = torch.zeros(1)


def another_type(tensors: Tensors) -> None:
    tensors[_first(tensors, "average")] = tensors[_first(tensors, "average")].half()


def no_tensor(tensors: Tensors) -> None:
    del tensors[_first(tensors, "model")]


def no_average(tensors: Tensors) -> None:
    del tensors[_first(tensors, "average")]


def no_moment(tensors: Tensors) -> None:
    del tensors[_first(tensors, "optimizer")]


def a_moments_shape(tensors: Tensors) -> None:
    tensors[_first(tensors, "optimizer")] = torch.zeros(7)


def a_stranger(tensors: Tensors) -> None:
    tensors["optimizer/blocks.99.weight/exp_avg"] = torch.zeros(1)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (another_shape, "has the shape [3], not ["),
        (one_number, "has the shape [1], not ["),
        (another_type, "is torch.float16, not torch.float32"),
        (no_tensor, "it has no model/"),
        (no_average, "it has no average/"),
        (no_moment, "it has no optimizer/"),
        (a_moments_shape, "has the shape [7], not ["),
        (a_stranger, "optimizer/blocks.99.weight/exp_avg is of no trained tensor"),
    ],
    ids=short,
)
def test_state_of_another_model(
    run: Run, ground: Path, copy: Path, change: Callable[[Tensors], None], says: str
) -> None:
    path = state_of(copy) / "tensors.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)
    seal(copy, step=1)
    refuse_resume(run, ground, copy, code="run-state-damaged", says=(says,))


def seal(run: Path, **progress: Any) -> None:
    """Gives the record its digests and the folder its name, as one who knows of them."""
    state = state_of(run)
    assert read_header(state / "tensors.safetensors")
    record = json.loads((state / "state.json").read_text())
    content = (state / "tensors.safetensors").read_bytes()
    record["sha256"] = hashlib.sha256(content).hexdigest()
    record["progress"].update(progress)
    record["digest"] = digest_content(record)
    (state / "state.json").write_text(json.dumps(record))
    state.rename(run / f"state-{max(record['progress']['step'], 0):09d}")


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("progress", "says"),
    [
        ({"step": -1}, "progress.step Input should be greater than or equal to 0"),
        ({"step": 3}, "it is after step 3 of a run of 2"),
        ({"corrupt": 5}, "progress.corrupt"),
        ({"metrics_bytes": 10**15}, "1,000,000,000,000,000 when the state was saved"),
    ],
    ids=short,
)
def test_progress_that_cannot_be(
    run: Run, ground: Path, copy: Path, progress: dict[str, Any], says: str
) -> None:
    seal(copy, **progress)
    refuse_resume(run, ground, copy, code="run-state-damaged", says=(says,))
