"""Folders and files that may not be written, read or entered; root is held to it as well."""

import os
import shutil
from pathlib import Path

import pytest

from tests.cli.helpers import (
    DATA,
    WITHOUT_ROOTS_RIGHTS,
    assert_refusal,
    child,
    snapshot,
    write_bundle,
    write_decoder,
)
from tests.conftest import PLAN

SECONDS = 90
pytestmark = pytest.mark.skipif(os.name != "posix", reason="permission bits")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("whole"), "llama")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a checkpoint and a plan."""
    write_decoder(tmp_path / "llama")
    (tmp_path / "plan.yaml").write_text(PLAN)
    return tmp_path


def expand(work: Path, *options: object) -> tuple[object, ...]:
    """The command line that expands the checkpoint of a folder."""
    return ("expand", work / "llama", "--plan", work / "plan.yaml", "-o", work / "out", *options)


def test_no_permission_to_write_beside_the_output(work: Path) -> None:
    (work / "closed").mkdir(mode=0o555)
    arguments = list(expand(work))
    arguments[5] = work / "closed" / "out"
    ended = child(*arguments, prelude=WITHOUT_ROOTS_RIGHTS, timeout=SECONDS)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert f"no permission to write in {work / 'closed'}" in ended.stderr
    assert f"where: {work / 'closed' / 'out'}" in ended.stderr
    assert list((work / "closed").iterdir()) == []


def test_no_permission_to_enter_the_outputs_folder(work: Path) -> None:
    (work / "closed").mkdir()
    (work / "closed" / "inner").mkdir()
    (work / "closed").chmod(0o000)
    arguments = list(expand(work))
    arguments[5] = work / "closed" / "inner" / "out"
    ended = child(*arguments, prelude=WITHOUT_ROOTS_RIGHTS, timeout=SECONDS)
    (work / "closed").chmod(0o755)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert "ermission" in ended.stderr


def test_no_permission_to_replace_an_old_output(work: Path, whole: Path) -> None:
    shutil.copytree(whole, work / "closed" / "out")
    (work / "closed").chmod(0o555)
    before = snapshot(work)
    arguments = list(expand(work, "--force"))
    arguments[5] = work / "closed" / "out"
    ended = child(*arguments, prelude=WITHOUT_ROOTS_RIGHTS, timeout=SECONDS)
    (work / "closed").chmod(0o755)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert snapshot(work) == before


@pytest.mark.sample(3)
@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("llama/model.safetensors", DATA, "checkpoint-unreadable"),
        ("llama/config.json", DATA, "checkpoint-unreadable"),
        ("llama", DATA, "system"),
        ("plan.yaml", 2, "plan-unreadable"),
    ],
)
def test_no_permission_to_read(work: Path, name: str, status: int, code: str) -> None:
    (work / name).chmod(0o000)
    ended = child(*expand(work), prelude=WITHOUT_ROOTS_RIGHTS, timeout=SECONDS)
    (work / name).chmod(0o755)
    assert_refusal(ended.returncode, ended.stdout, ended.stderr, status=status, code=code)
    assert "ermission" in ended.stderr
    assert str(work / name) in ended.stderr
    assert not (work / "out").exists()


@pytest.mark.sample(3)
@pytest.mark.parametrize("name", ["manifest.json", "model.safetensors", "plan.yaml", ""])
def test_no_permission_to_read_a_bundle(tmp_path: Path, whole: Path, name: str) -> None:
    bundle = Path(shutil.copytree(whole, tmp_path / "out"))
    (bundle / name).chmod(0o000)
    ended = child("verify", bundle, prelude=WITHOUT_ROOTS_RIGHTS, timeout=SECONDS)
    (bundle / name).chmod(0o755)
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (DATA, "")
    assert "ermission" in ended.stderr
    assert str(bundle) in ended.stderr
