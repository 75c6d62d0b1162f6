"""Each command by hand: output for people, JSON for pipelines, thresholds for CI."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from tests.conftest import VIT_OPTIONS

Run = Callable[..., Result]


@pytest.fixture
def bundle(vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path], tmp_path: Path) -> Path:
    out = tmp_path / "out"
    result = run("expand", vit_checkpoint, "--plan", plan_file(), "-o", out, *VIT_OPTIONS)
    assert result.exit_code == 0, result.stderr
    return out


def test_expand_says_what_it_did(
    vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "new"
    result = run("expand", vit_checkpoint, "--plan", plan_file(), "-o", out, *VIT_OPTIONS)
    assert f"written to {out}" in result.stdout
    assert "note: not in timm's registry" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "adapters.safetensors",
        "manifest.json",
        "model.safetensors",
        "plan.yaml",
    ]
    assert (out / "plan.yaml").read_text() == plan_file().read_text()


def test_dry_run_prints_and_writes_nothing(
    vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "new"
    arguments = ("expand", vit_checkpoint, "--plan", plan_file(), "-o", out, *VIT_OPTIONS)
    result = run(*arguments, "--dry-run")
    assert "was not written" in result.stdout
    assert "memory estimate" in result.stdout
    promised = json.loads(run(*arguments, "--dry-run", "--json").stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.yaml"]
    written = json.loads(run(*arguments, "--json").stdout)
    assert {**promised, "written": True} == written


def test_force_replaces_a_bundle(
    bundle: Path, vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path]
) -> None:
    deeper = plan_file("version: 1\nmapping: stack\nfactor: 3\nadapter: {dim: 4}\n", "3.yaml")
    arguments = ("expand", vit_checkpoint, "--plan", deeper, "-o", bundle, *VIT_OPTIONS)
    assert run(*arguments).exit_code == 2
    assert len(json.loads(run("count-params", bundle, "--json").stdout)["instances"]) == 6
    assert run(*arguments, "--force").exit_code == 0
    assert len(json.loads(run("count-params", bundle, "--json").stdout)["instances"]) == 9
    assert {path.name for path in bundle.parent.iterdir()} == {"out", "plan.yaml", "3.yaml"}


def test_bundle_checkpoint_and_plan_give_the_same_numbers(
    bundle: Path, vit_checkpoint: Path, run: Run, plan_file: Callable[..., Path]
) -> None:
    for command in ("count-params", "flops"):
        of_bundle = run(command, bundle, "--json")
        of_plan = run(command, vit_checkpoint, "--plan", plan_file(), *VIT_OPTIONS, "--json")
        replanned = run(command, bundle, "--plan", plan_file(), "--json")
        assert of_bundle.stdout == of_plan.stdout == replanned.stdout
        assert of_bundle.exit_code == 0
    report = json.loads(run("count-params", bundle, "--json").stdout)
    assert {"stored", "executed", "trainable", "groups"} <= report.keys()
    report = json.loads(run("flops", bundle, "--json").stdout)
    assert {"macs", "flops", "instances"} <= report.keys()


@pytest.mark.parametrize(
    ("command", "option", "key"),
    [("count-params", "--max-params", "stored"), ("flops", "--max-macs", "macs")],
)
def test_thresholds(command: str, option: str, key: str, bundle: Path, run: Run) -> None:
    found = json.loads(run(command, bundle, "--json").stdout)[key]
    assert run(command, bundle, option, found).exit_code == 0
    missed = run(command, bundle, option, found - 1)
    assert missed.exit_code == 4
    assert f"{found:,}" in missed.stderr
    assert f"{found - 1:,}" in missed.stderr


def test_inspect_draws_who_shares_what(bundle: Path, run: Run) -> None:
    out = run("inspect", bundle).stdout.replace("\N{BLACK CIRCLE}", "O")
    out = out.replace("\N{WHITE CIRCLE}", "o").replace("\N{MIDDLE DOT}", ".")
    assert "position 012345\nblock  0 Oo....\n       1 ..Oo..\n       2 ....Oo\n" in out
    report = json.loads(run("inspect", bundle, "--json").stdout)
    (stage,) = report["stages"]
    assert stage["sources"] == [0, 0, 1, 1, 2, 2]
    assert stage["ordinals"] == [0, 1, 0, 1, 0, 1]
    assert report["tied_tensors"] == 3 * 8


def test_verify_with_and_without_the_source(bundle: Path, vit_checkpoint: Path, run: Run) -> None:
    assert "bit for bit" in run("verify", bundle).stdout
    report = json.loads(run("verify", bundle, "--source", vit_checkpoint, "--json").stdout)
    assert report["compared_tensors"] == 44
    assert report["tie_groups"] == 24


def test_check(run: Run, plan_file: Callable[..., Path], vit_checkpoint: Path) -> None:
    assert run("check", plan_file()).stdout == "the plan is valid\n"
    result = run("check", plan_file(), "--against", vit_checkpoint, *VIT_OPTIONS)
    assert "6 blocks (3 new)" in result.stdout


@pytest.mark.slow  # .ci/run does it with the wheel
def test_quickstart(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    result = run("quickstart", "-o", out, "--max-steps", 2, "--json")
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["base_top1"] == report["before_top1"]  # the plan starts as the identity
    assert {path.name for path in out.iterdir()} >= {"start", "best", "last", "curves.png"}


@pytest.mark.slow
def test_quickstart_replaces_its_own_run(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "quickstart"
    for _ in range(2):
        result = run("quickstart", "-o", out, "--max-steps", 2)
        assert result.exit_code == 0, result.stderr
        assert f"{out / 'best'} holds" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["quickstart"]


def test_quickstart_replaces_nothing_else(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "mine"
    other.mkdir()
    (other / "thesis.txt").write_text("weeks of work")
    assert run("quickstart", "-o", other).exit_code == 2
    (other / "manifest.json").write_text('{"manifest_version": 3}')  # a browser extension's
    assert run("quickstart", "-o", other).exit_code != 0
    assert (other / "thesis.txt").read_text() == "weeks of work"


EXIT = """
import atexit, sys
from scalenet_cli.cli import app as cli

inner = cli.app

def app():
    atexit.register(print, "a library's own")
    sys.stdout.write("not flushed, ")
    inner()

cli.app = app
assert "multiprocessing.util" not in sys.modules  # what ends workers is registered later
cli.script()
"""


@pytest.mark.sample(2)
@pytest.mark.parametrize(("argument", "status"), [("recipes", 0), ("no-such-command", 2)])
def test_the_process_ends_after_what_libraries_registered(argument: str, status: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", EXIT, argument], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == status
    assert ended.stdout.startswith("not flushed, ")
    assert ended.stdout.endswith("a library's own\n")


def test_output_that_cannot_be_written_at_the_end_is_no_success() -> None:
    code = (
        "import sys; from scalenet_cli.cli import app as cli\n"
        "def app():\n"
        "    sys.stdout.write('a library wrote this')\n"
        "    sys.exit(0)\n"
        "cli.app = app\n"
        "cli.script()\n"
    )
    with Path("/dev/full").open("w") as full:
        assert subprocess.run([sys.executable, "-c", code], stdout=full, timeout=60).returncode


def test_a_lost_stdout_hides_no_other_error() -> None:
    code = (
        "import sys; from scalenet_cli.cli import app as cli\n"
        "from scalenet_cli.files.standard_streams import outlive_readers\n"
        "def app():\n"
        "    outlive_readers()\n"
        "    print('the disk is full', flush=True)\n"
        "    open('no such file')\n"
        "cli.app = app\n"
        "cli.script()\n"
    )
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
        )
    assert ended.returncode == 1
    assert ended.stderr.endswith("No such file or directory: 'no such file'\n")


def test_a_fork_may_end_as_a_program_does() -> None:
    code = (
        "import os, sys; from scalenet_cli.cli import app as cli\n"
        "def app():\n"
        "    child = os.fork()\n"
        "    sys.exit(7 if child == 0 else os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "cli.app = app\n"
        "cli.script()\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7


def test_the_version(run: Run) -> None:
    import scalenet_cli

    assert run("--version").stdout == f"scalenet {scalenet_cli.__version__}\n"
