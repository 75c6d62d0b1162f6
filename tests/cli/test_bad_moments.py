"""Real processes that are stopped, starved or shut out while they expand."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.helpers import (
    DATA,
    Run,
    assert_refusal,
    child,
    child_command,
    snapshot,
    tensors_of,
    write_bundle,
    write_decoder,
    write_safetensors,
)
from tests.conftest import PLAN

SECONDS = 90
# The tiny decoders come without a tokenizer, and are told so.
NOTE = re.compile(r"note: (?:the folder has no tokenizer|start: copy does not keep).*\n")
pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and permission bits")


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


def enlarge(folder: Path, vocabulary: int) -> None:
    """Gives a decoder a large vocabulary of zeros, which take no room on the disk."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": vocabulary}))
    header, at = {}, 0
    for key, tensor in tensors_of("llama").items():
        large = key in ("model.embed_tokens.weight", "lm_head.weight")
        shape = [vocabulary, 32] if large else list(tensor.shape)
        end = at + 4 * vocabulary * 32 if large else at + 4 * tensor.numel()
        header[key] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        at = end
    path = write_safetensors(folder / "model.safetensors", header)
    os.truncate(path, path.stat().st_size + at)


def stop(
    process: "subprocess.Popen[str]", number: signal.Signals, ready: Callable[[], bool]
) -> tuple[str, str]:
    """Sends a signal once something holds; returns what the process said."""
    deadline = time.monotonic() + SECONDS
    while not ready():
        assert process.poll() is None, "it ended before it could be stopped"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(number)
    return process.communicate(timeout=SECONDS)


def start(*arguments: object) -> "subprocess.Popen[str]":
    """The command line in the background, in a group of its own."""
    return subprocess.Popen(
        child_command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def writing(work: Path, num_bytes: int = 0) -> Callable[[], bool]:
    """Whether a temporary sibling is there and holds so many bytes."""

    def ready() -> bool:
        if not num_bytes:
            return any(work.glob(".out.*.partial"))
        files = work.glob(".out.*.partial/model.safetensors")
        return any(file.stat().st_size >= num_bytes for file in files)

    return ready


@pytest.mark.sample(2)
@pytest.mark.parametrize("old", [False, True], ids=["new", "replaced"])
def test_ctrl_c_leaves_the_old_state(work: Path, whole: Path, old: bool) -> None:
    if old:
        shutil.copytree(whole, work / "out")
    before = snapshot(work)
    process = start(*expand(work, *(("--force",) if old else ())))
    stdout, stderr = stop(process, signal.SIGINT, writing(work))
    assert snapshot(work) == before
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "interrupted: nothing was changed\n"


INTERRUPTED = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
from scalenet_cli.cli.app import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["numpy.linalg", "torch.nn"])
def test_ctrl_c_while_a_library_is_imported_leaves_the_old_state(work: Path, module: str) -> None:
    # torch imports numpy and goes on when that fails: half of numpy is worse than none.
    before = snapshot(work)
    command = [sys.executable, "-c", INTERRUPTED.format(module=module), *map(str, expand(work))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert snapshot(work) == before
    assert "Traceback" not in ended.stderr
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "interrupted: nothing was changed\n"


SWALLOWED = """
import os, signal, sys
from pathlib import Path
from scalenet_cli.bundle import staging
from scalenet_cli.files import staged_folder

check = staging.check_output

def interrupted(output, **options):
    check(output, **options)
    if list(Path(output).parent.glob(".out.*.partial")):  # the second time
        try:
            os.kill(os.getpid(), signal.{name})
        except BaseException:
            pass  # as an import of an optional package does

def publish(*arguments):
    publishing(*arguments)
    os.kill(os.getpid(), signal.{name})

if "{moment}" == "before":
    staging.check_output = interrupted
else:
    publishing, staged_folder._publish = staged_folder._publish, publish
from scalenet_cli.cli.app import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 143)])
def test_a_request_to_stop_that_a_library_swallows_is_heard(
    work: Path, name: str, status: int
) -> None:
    before = snapshot(work)
    script = SWALLOWED.format(name=name, moment="before")
    command = [sys.executable, "-c", script, *map(str, expand(work))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert snapshot(work) == before
    assert (ended.returncode, ended.stdout) == (status, "")


@pytest.mark.slow
def test_a_request_to_stop_after_the_output_is_there_is_too_late(work: Path, whole: Path) -> None:
    shutil.copytree(whole, work / "out")
    script = SWALLOWED.format(name="SIGINT", moment="after")
    command = [sys.executable, "-c", script, *map(str, expand(work, "--force"))]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert (ended.returncode, NOTE.sub("", ended.stderr)) == (0, "")
    assert snapshot(work / "out") == snapshot(whole)
    assert sorted(path.name for path in work.iterdir()) == ["llama", "out", "plan.yaml"]


@pytest.mark.slow
def test_ctrl_c_while_a_large_file_is_copied_leaves_the_old_state(work: Path, whole: Path) -> None:
    shutil.copytree(whole, work / "out")
    enlarge(work / "llama", 1_000_000)  # 256 MB
    before = snapshot(work / "out")
    process = start(*expand(work, "--force"))
    stdout, stderr = stop(process, signal.SIGINT, writing(work, 4_000_000))
    assert snapshot(work / "out") == before
    assert sorted(path.name for path in work.iterdir()) == ["llama", "out", "plan.yaml"]
    assert (process.returncode, stdout) == (130, "")
    assert stderr == "interrupted: nothing was changed\n"


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)]
)
def test_a_polite_end_leaves_the_old_state(work: Path, whole: Path, number: signal.Signals) -> None:
    shutil.copytree(whole, work / "out")
    before = snapshot(work)
    process = start(*expand(work, "--force"))
    stdout, stderr = stop(process, number, writing(work))
    assert snapshot(work) == before
    assert process.returncode in (128 + number, -number)
    assert stdout == ""
    assert "Traceback" not in stderr


def test_a_killed_process_leaves_the_old_output_and_the_next_run_ends_well(
    run: Run, work: Path, whole: Path
) -> None:
    shutil.copytree(whole, work / "out")
    before = snapshot(work / "out")
    process = start(*expand(work, "--force"))
    stop(process, signal.SIGKILL, writing(work))
    assert snapshot(work / "out") == before
    ended = run(*expand(work, "--force"))
    assert (ended.exit_code, NOTE.sub("", ended.stderr)) == (0, "")
    assert snapshot(work / "out") == snapshot(whole)


@pytest.mark.slow
def test_a_file_that_may_not_grow_leaves_the_old_state(work: Path, whole: Path) -> None:
    # The kernel refuses the write, as it does on a full disk.
    shutil.copytree(whole, work / "out")
    before = snapshot(work)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    ended = child(*expand(work, "--force"), prelude=limit, timeout=SECONDS)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert "File too large" in ended.stderr
    assert f"where: {work / 'out'}" in ended.stderr
    assert "hint:" in ended.stderr
    assert snapshot(work) == before


MOUNT = ["unshare", "-m", "sh", "-c"]


def _may_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    test = [*MOUNT, 'mount -t tmpfs none "$1"', "sh", str(folder)]
    return subprocess.run(test, capture_output=True).returncode == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("size=1m", ("the bundle needs 8,", "but 1,048,576 are free")),
        pytest.param("size=64m,nr_inodes=4", ("No space left on device",), marks=pytest.mark.slow),
        ("size=64m,ro", ("no permission to write in",)),
    ],
    ids=["small", "full", "read-only"],
)
def test_a_small_a_full_and_a_read_only_disk(
    work: Path, options: str, says: tuple[str, ...]
) -> None:
    disk = work / "disk"
    disk.mkdir()
    if not _may_mount(disk):
        pytest.skip("mounting is not permitted here; RLIMIT_FSIZE stands in for a full disk")
    arguments = list(expand(work))
    arguments[5] = disk / "out"
    script = 'mount -t tmpfs -o "$1" none "$2"; shift; d=$1; shift; "$@"; s=$?; ls -A "$d"; exit $s'
    command = [*MOUNT, script, "sh", options, str(disk), *child_command(*arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert_refusal(
        ended.returncode, ended.stdout, ended.stderr, status=DATA, code="output-unwritable"
    )
    assert f"where: {disk / 'out'}" in ended.stderr
    for words in says:
        assert words in ended.stderr


NOBODY = {
    "reader": (141, ""),
    "full": (3, "No space left on device"),
    "closed": (3, "stdout is closed"),
}


def nobody_reads(how: str) -> "int | None":
    """A stdout that nobody reads; None where it is closed."""
    if how == "closed":
        return None
    if how == "full":
        return os.open("/dev/full", os.O_WRONLY)
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("count-params", "reader"),
        ("--version", "full"),
        ("check", "closed"),
        *(
            pytest.param(command, how, marks=pytest.mark.slow)
            for command in ("--help", "recipes", "check", "count-params", "expand")
            for how in NOBODY
        ),
    ],
)
def test_a_result_that_nobody_gets_is_no_success(
    work: Path, whole: Path, command: str, how: str
) -> None:
    targets: dict[str, tuple[object, ...]] = {
        "check": (work / "plan.yaml",),
        "count-params": (whole,),
        "expand": (work / "llama", "--plan", work / "plan.yaml", "-o", work / "out", "--dry-run"),
    }
    arguments = [sys.executable, "-m", "scalenet_cli", command, *map(str, targets.get(command, ()))]
    stdout = nobody_reads(how)
    if stdout is None:
        arguments = ["sh", "-c", 'exec "$0" "$@" >&-', *arguments]
    try:
        ended = subprocess.run(
            arguments, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=SECONDS
        )
    finally:
        if stdout is not None:
            os.close(stdout)
    status, says = NOBODY[how]
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert ended.returncode == status
    told = [line for line in ended.stderr.splitlines() if line.startswith("error[")]
    assert told == ([f"error[system]: the result cannot be written: {says}"] if says else [])


@pytest.mark.slow
@pytest.mark.parametrize("how", ["reader", "full", "closed"])
def test_a_bundle_is_written_whoever_reads_of_it(work: Path, whole: Path, how: str) -> None:
    arguments = [sys.executable, "-m", "scalenet_cli", *map(str, expand(work))]
    script = {
        "reader": '"$0" "$@" 2>&1 | true; exit "${PIPESTATUS[0]}"',
        "full": 'exec "$0" "$@" 2> /dev/full',
        "closed": 'exec "$0" "$@" >&- 2>&-',
    }[how]
    ended = subprocess.run(["bash", "-c", script, *arguments], capture_output=True, timeout=SECONDS)
    assert ended.returncode == 0, ended.stderr
    assert snapshot(work / "out") == snapshot(whole)


@pytest.mark.slow
def test_expansions_that_race_leave_one_whole_bundle(work: Path, whole: Path) -> None:
    shutil.copytree(whole, work / "out")
    for _ in range(3):
        processes = [start(*expand(work, "--force")) for _ in range(4)]
        told = [process.communicate(timeout=SECONDS)[1] for process in processes]
        statuses = [process.returncode for process in processes]
        assert 0 in statuses
        assert set(statuses) <= {0, DATA}
        for status, text in zip(statuses, told, strict=True):
            assert status == 0 or "error[output-in-use]: another command is writing there" in text
        assert snapshot(work / "out") == snapshot(whole)
        assert sorted(path.name for path in work.iterdir()) == ["llama", "out", "plan.yaml"]
