"""Outputs that are there already, cannot be written, or fail on the way."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from scalenet_cli.files import staged_folder
from tests.cli.helpers import (
    DATA,
    USAGE,
    Run,
    in_use,
    refuse,
    snapshot,
    tensors_of,
    write_bundle,
)
from tests.conftest import PLAN, VIT_OPTIONS


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a checkpoint and a plan."""
    save_file(dict(tensors_of("vit")), tmp_path / "vit.safetensors")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def expand(work: Path, *options: object, output: object = "out") -> tuple[object, ...]:
    """The command line that expands the checkpoint of a folder."""
    plan = ("--plan", work / "plan.yaml")
    return ("expand", work / "vit.safetensors", *plan, "-o", work / str(output), *VIT_OPTIONS,
            *options)  # fmt: skip


def _bundle(path: Path, whole: Path) -> None:
    shutil.copytree(whole, path)


def _folder(path: Path, whole: Path) -> None:
    path.mkdir()
    (path / "notes.txt").write_text("mine")


def _file(path: Path, whole: Path) -> None:
    path.write_text("mine")


def _link_to_bundle(path: Path, whole: Path) -> None:
    shutil.copytree(whole, path.parent / "elsewhere")
    path.symlink_to("elsewhere")


def _link_to_nothing(path: Path, whole: Path) -> None:
    path.symlink_to("nowhere")


def _folder_called_manifest(path: Path, whole: Path) -> None:
    (path / "manifest.json").mkdir(parents=True)


def _pipe(path: Path, whole: Path) -> None:
    os.mkfifo(path)


KINDS = [_bundle, _folder, _file, _link_to_bundle, _link_to_nothing, _folder_called_manifest]
Make = Callable[[Path, Path], None]


@pytest.mark.parametrize("make", [*KINDS, _pipe])
def test_an_output_that_exists_is_not_touched(
    run: Run, work: Path, whole: Path, make: Make
) -> None:
    make(work / "out", whole)
    says = ("the output exists already", f"where: {work / 'out'}", "--force")
    refuse(run, work, *expand(work), status=USAGE, code="output-exists", says=says)


@pytest.mark.parametrize("make", [*KINDS[1:], _pipe])
def test_force_does_not_remove_what_is_no_bundle(
    run: Run, work: Path, whole: Path, make: Make
) -> None:
    make(work / "out", whole)
    says = ("is no bundle", f"where: {work / 'out'}", "hint:")
    refuse(run, work, *expand(work, "--force"), status=USAGE, code="output-exists", says=says)


def test_force_replaces_a_bundle_and_leaves_nothing_beside_it(
    run: Run, work: Path, whole: Path
) -> None:
    _bundle(work / "out", whole)
    (work / "out" / "README.md").write_text("old")
    assert run(*expand(work, "--force")).exit_code == 0
    assert snapshot(work / "out") == snapshot(whole)
    assert sorted(path.name for path in work.iterdir()) == ["out", "plan.yaml", "vit.safetensors"]


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
def test_of_two_commands_at_once_the_second_is_refused(
    run: Run, work: Path, whole: Path, force: bool
) -> None:
    arguments = expand(work)
    if force:
        _bundle(work / "out", whole)
        arguments = expand(work, "--force")
    says = ("another command is writing there: process ", f"where: {work / 'out'}", "hint:  wait")
    with in_use(work / "out"):
        refuse(run, work, *arguments, status=DATA, code="output-in-use", says=says)
    assert run(*arguments).exit_code == 0
    assert snapshot(work / "out") == snapshot(whole)
    assert sorted(path.name for path in work.iterdir()) == ["out", "plan.yaml", "vit.safetensors"]


def test_of_two_quickstarts_at_once_the_second_is_refused(run: Run, tmp_path: Path) -> None:
    with in_use(tmp_path / "out"):
        arguments = ("quickstart", "-o", tmp_path / "out")
        refuse(run, tmp_path, *arguments, status=DATA, code="output-in-use")


def test_a_dry_run_writes_nothing(run: Run, work: Path) -> None:
    before = snapshot(work)
    assert run(*expand(work, "--dry-run")).exit_code == 0
    assert snapshot(work) == before


def test_force_does_not_remove_the_checkpoint_that_is_to_be_read(
    run: Run, work: Path, whole: Path
) -> None:
    _bundle(work / "out", whole)
    inside = shutil.move(work / "vit.safetensors", work / "out" / "vit.safetensors")
    arguments = expand(work, "--force")
    arguments = (arguments[0], inside, *arguments[2:])
    refuse(run, work, *arguments, status=USAGE, code="output-exists", says=("where:",))


@pytest.mark.parametrize("force", [False, True])
def test_the_checkpoint_as_its_own_output(run: Run, work: Path, force: bool) -> None:
    extra = ("--force",) if force else ()
    arguments = expand(work, *extra, output="vit.safetensors")
    refuse(run, work, *arguments, status=USAGE, code="output-exists", says=("vit.safetensors",))


@pytest.mark.parametrize(
    ("output", "says"),
    [
        ("no/such/out", "no/such is no folder"),
        ("plan.yaml/out", "plan.yaml is no folder"),
        ("/dev/null/out", "/dev/null is no folder"),
    ],
    ids=["no-parent", "file-as-parent", "device"],
)
def test_an_output_that_can_be_nowhere(run: Run, work: Path, output: str, says: str) -> None:
    where = f"where: {work / output}"[:200]
    arguments = expand(work, output=output)
    refuse(run, work, *arguments, status=DATA, code="output-unwritable", says=(says, where))


@pytest.mark.parametrize("length", [300, 5000])
def test_an_output_with_a_name_too_long_for_the_disk(run: Run, work: Path, length: int) -> None:
    arguments = expand(work, output="x" * length)
    refuse(run, work, *arguments, status=DATA, code="output-unwritable", says=("too long",))


@pytest.mark.parametrize("output", [".", "..", "/", "", "sub/.."])
def test_an_output_that_is_a_folder_in_use(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    (work / "sub").mkdir()
    monkeypatch.chdir(work)
    arguments = list(expand(work))
    arguments[5] = output
    refuse(run, work, *arguments, status=USAGE, code="output-exists", says=("where:",))


def test_an_output_with_a_name_of_two_lines(run: Run, work: Path) -> None:
    (work / "two\nlines\x07").write_text("mine")
    arguments = expand(work, output="two\nlines\x07")
    refuse(run, work, *arguments, status=USAGE, code="output-exists", says=("lines",))


@pytest.mark.parametrize("name", [b"\xff.safetensors", b"two\nlines.safetensors"])
def test_a_checkpoint_with_an_odd_name_is_refused_or_expanded(
    run: Run, work: Path, name: bytes
) -> None:
    odd = work / os.fsdecode(name)
    (work / "vit.safetensors").rename(odd)
    arguments = list(expand(work))
    arguments[1] = odd
    result = run(*arguments)
    assert result.exit_code in (0, DATA), repr(result.exception)
    assert (work / "out" / "manifest.json").exists() == (result.exit_code == 0)
    assert list(work.glob(".out.*")) == []


def test_too_little_room_is_told_with_both_numbers(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(work)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_234_567))
    says = ("the bundle needs 8,1", "but 1,234,567 are free", f"where: {work / 'out'}", "hint:")
    refuse(run, work, *expand(work), status=DATA, code="output-unwritable", says=says)


class Nth:
    """Does what the original does, but fails at the n-th call."""

    def __init__(self, original: Callable[..., Any], failure: BaseException, number: int) -> None:
        self._original, self._failure, self._left = original, failure, number

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        self._left -= 1
        if self._left == 0:
            raise self._failure
        return self._original(*arguments, **options)


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
BROKEN = OSError(errno.EIO, os.strerror(errno.EIO))


def _only_rename(monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """Where names cannot change places in one step, two renames do it."""
    if function == "rename":
        monkeypatch.setattr(staged_folder, "_exchange", lambda *_: False)


def _moments(calls: dict[str, tuple[int, ...]]) -> list[tuple[bool, str, int]]:
    """Which call fails, with and without an old output; only an old one is renamed as well."""
    every = [(name, number) for name, numbers in calls.items() for number in numbers]
    moments = [(old, *call) for old in (False, True) for call in every]
    return [moment for moment in moments if moment != (False, "rename", 2)]


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("old", "function", "number"),
    _moments({"write": (1, 70), "fsync": (1, 6), "rename": (1, 2)}),
)
def test_a_disk_that_fails_on_the_way_leaves_the_old_state(
    run: Run, work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, old: bool, function: str,
    number: int,
) -> None:  # fmt: skip
    failure, says = (
        (FULL, "No space left") if function == "write" else (BROKEN, "Input/output error")
    )
    if old:
        _bundle(work / "out", whole)
    _only_rename(monkeypatch, function)
    monkeypatch.setattr(os, function, Nth(getattr(os, function), failure, number))
    arguments = expand(work, "--force") if old else expand(work)
    found = (says, f"where: {work / 'out'}", "hint:")
    refuse(run, work, *arguments, status=DATA, code="output-unwritable", says=found)


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("old", "function", "number"),
    _moments({"write": (40,), "fsync": (1, 6), "rename": (1, 2)}),
)
def test_ctrl_c_at_any_moment_leaves_the_old_state(
    run: Run, work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, old: bool, function: str,
    number: int,
) -> None:  # fmt: skip
    if old:
        _bundle(work / "out", whole)
    before = snapshot(work)
    _only_rename(monkeypatch, function)
    monkeypatch.setattr(os, function, Nth(getattr(os, function), KeyboardInterrupt(), number))
    result = run(*(expand(work, "--force") if old else expand(work)))
    assert snapshot(work) == before
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "interrupted: nothing was changed\n"


@pytest.mark.parametrize("make", [_folder, _bundle, _file])
def test_an_output_that_appears_meanwhile_is_not_replaced(
    run: Run, work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch, make: Make
) -> None:
    fsync, made = os.fsync, []

    def appear(descriptor: int) -> None:
        if not made:
            make(work / "out", whole)
            made.append(snapshot(work / "out") or (work / "out").read_bytes())
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", appear)
    result = run(*expand(work))
    assert result.exit_code == USAGE, repr(result.exception)
    assert "error[output-exists]" in result.stderr
    assert [snapshot(work / "out") or (work / "out").read_bytes()] == made
    assert list(work.glob(".out.*")) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [(lambda path: os.truncate(path, 30_000), "ends"), (Path.unlink, "No such file")],
    ids=["truncated", "removed"],
)
def test_a_checkpoint_that_changes_while_it_is_copied(
    run: Run, work: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None],
    says: str,
) -> None:  # fmt: skip
    checkpoint, usage = work / "vit.safetensors", shutil.disk_usage

    def change_once(path: Path) -> Any:
        if checkpoint.exists() and checkpoint.stat().st_size > 30_000:
            change(checkpoint)
        return usage(path)

    monkeypatch.setattr(shutil, "disk_usage", change_once)
    result = run(*expand(work))
    assert (result.exit_code, result.stdout) == (DATA, ""), repr(result.exception)
    assert "error[checkpoint-" in result.stderr
    assert f"where: {checkpoint}" in result.stderr
    assert says in result.stderr
    assert list(work.glob(".out.*")) == []
    assert not (work / "out").exists()


@pytest.mark.parametrize("make", KINDS[1:])
def test_quickstart_replaces_bundles_only(run: Run, work: Path, whole: Path, make: Make) -> None:
    make(work / "out", whole)
    arguments = ("quickstart", "-o", work / "out")
    refuse(run, work, *arguments, status=USAGE, code="output-exists", says=(str(work / "out"),))
