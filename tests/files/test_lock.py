"""One writer at a time, whoever the other is: a process, a thread, a dead one, another machine."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scalenet_cli.errors import OutputInUse, OutputUnwritable
from scalenet_cli.files import lock, lock_holder
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.lock_holder import Holder, this_process

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")

# Holds a lock and says so. With "forks", a child of it, such as loads data, lives on.
HOLD = """
import errno, fcntl, os, sys, time
from pathlib import Path
from scalenet_cli.files.lock import sole_writer
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
if "without" in sys.argv:
    fcntl.flock = refuse
with sole_writer(Path(sys.argv[1])):
    if "forks" not in sys.argv or os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """What flock does on a network disk that has none."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock.fcntl, "flock", flock)


@pytest.fixture(params=[True, False], ids=["flock", "no-flock"])
def has_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """On a file system with locks, and on one without."""
    if not request.param:
        without_locks(monkeypatch)
    return bool(request.param)


@contextmanager
def holder(folder: Path, *how: str) -> Iterator["tuple[subprocess.Popen[str], int]"]:
    """A process that holds the lock, and what it said."""
    command = [sys.executable, "-c", HOLD, str(folder), *how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = int(process.stdout.readline())
        try:
            yield process, told
        finally:
            process.kill()


def assert_free(folder: Path) -> None:
    """It can be taken, and leaves nothing."""
    with sole_writer(folder):
        pass
    assert list(folder.parent.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path: Path, has_locks: bool) -> None:
    run = tmp_path / "run"
    with holder(run, *(() if has_locks else ("without",))) as (process, _):
        with pytest.raises(OutputInUse) as raised, sole_writer(run):
            pass
        for part in (str(process.pid), socket.gethostname(), "since 20"):
            assert part in raised.value.fact
        process.kill()
        # Not yet waited for, it is still in the list of processes.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert (tmp_path / ".run.lock").exists()
        assert_free(run)


def test_what_a_killed_process_has_forked_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / "run", "forks") as (process, child):
        process.kill()
        process.wait()
        os.kill(child, 0)  # it lives
        try:
            assert_free(tmp_path / "run")
        finally:
            os.kill(child, signal.SIGKILL)


def test_threads_exclude_each_other_and_one_may_nest(tmp_path: Path, has_locks: bool) -> None:
    found: list[BaseException] = []

    def other() -> None:
        try:
            with sole_writer(tmp_path / "run"):
                pass
        except OutputInUse as error:
            found.append(error)

    with sole_writer(tmp_path / "run"), sole_writer(tmp_path / "run"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert f"process {os.getpid()} on" in str(found)
        assert Holder.parse((tmp_path / ".run.lock").read_bytes()) is not None
    assert_free(tmp_path / "run")


def test_all_threads_that_race_have_their_turn_alone(tmp_path: Path, has_locks: bool) -> None:
    turns = [0]

    def work() -> None:
        done = 0
        while done < 20:
            try:
                with sole_writer(tmp_path / "run"):
                    before = turns[0]
                    time.sleep(0.0005)
                    turns[0] = before + 1  # loses what another one has counted meanwhile
                    done += 1
            except OutputInUse:
                continue

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert turns == [80]
    assert list(tmp_path.iterdir()) == []


def before_first_call(
    monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[], object]
) -> None:
    """Another process is faster: it does something right before a function is first called."""
    original, waiting = getattr(lock, name), [work]

    def function(*arguments: Any) -> Any:
        if waiting:
            waiting.pop()()
        return original(*arguments)

    monkeypatch.setattr(lock, name, function)


def test_a_lock_that_its_owner_removes_after_it_was_opened_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = left_behind(tmp_path / "run", pid=2**22 + 1)
    before_first_call(monkeypatch, "_lock", path.unlink)
    with sole_writer(tmp_path / "run"):
        held = Holder.parse(path.read_bytes())
        assert held is not None
        assert held.pid == os.getpid()


def test_of_two_that_find_a_dead_holder_the_slower_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch)
    path = left_behind(tmp_path / "run", pid=2**22 + 1)
    before_first_call(monkeypatch, "_remove", lambda: left_behind(tmp_path / "run"))
    with (
        pytest.raises(OutputInUse, match=f"process {os.getppid()} "),
        sole_writer(tmp_path / "run"),
    ):
        pass
    held = Holder.parse(path.read_bytes())
    assert held is not None
    assert held.pid == os.getppid()
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_the_folder_is_no_way_around(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    with sole_writer(tmp_path / "run"):
        thread_found: list[str] = []

        def other() -> None:
            with pytest.raises(OutputInUse), sole_writer(tmp_path / "link"):
                pass
            thread_found.append("refused")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert thread_found == ["refused"]


def left_behind(folder: Path, **changes: Any) -> Path:
    """The lock of a process that was killed: by default of one that lives, this one's parent."""
    entries = {
        **this_process().model_dump(),
        "pid": os.getppid(),
        "ticks": lock_holder._started(os.getppid()),
        **changes,
    }
    path = folder.with_name(f".{folder.name}.lock")
    path.write_text(json.dumps(entries))
    return path


ELSEWHERE = {"host": "node7", "kernel": "another"}
ENDED: list[tuple[str, dict[str, Any]]] = [
    ("another process has the number now", {"ticks": 1}),
    ("nobody has the number", {"pid": 2**22 + 1, "ticks": 1}),
    ("the machine was started anew", {"kernel": "another"}),
    ("Slurm has started the job again", {**ELSEWHERE, "job": "17"}),
]


@pytest.mark.parametrize("changes", [changes for _, changes in ENDED], ids=[n for n, _ in ENDED])
def test_what_has_certainly_ended_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool, changes: dict[str, Any]
) -> None:
    left_behind(tmp_path / "run", **changes)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert_free(tmp_path / "run")


UNKNOWN = [ELSEWHERE, {**ELSEWHERE, "job": "16"}, {**ELSEWHERE, "job": "17", "restart": 1}]


@pytest.mark.parametrize("changes", UNKNOWN, ids=["none", "another-job", "this-start"])
def test_another_machine_is_named_with_what_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool, changes: dict[str, Any]
) -> None:
    path = left_behind(tmp_path / "run", **changes)
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    before = path.read_bytes()
    with pytest.raises(OutputInUse) as raised, sole_writer(tmp_path / "run"):
        pass
    assert f"process {os.getppid()} on node7, since 20" in raised.value.fact
    assert f"remove {path}" in str(raised.value.hint)
    assert path.read_bytes() == before
    path.unlink()
    assert_free(tmp_path / "run")


def test_where_there_are_no_locks_a_living_process_and_another_container_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(tmp_path / "run")
    other = left_behind(tmp_path / "container", processes="pid:[1]", ticks=1)
    without_locks(monkeypatch)
    for name, says in {"run": "another command", "container": "or was killed"}.items():
        with pytest.raises(OutputInUse, match=says), sole_writer(tmp_path / name):
            pass
    monkeypatch.undo()
    other.unlink()
    assert_free(tmp_path / "run")  # with locks, the kernel knows that nobody has it


def _empty(path: Path) -> None:
    path.touch()


def _foreign(path: Path) -> None:
    path.write_text("my own lock\n")


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.symlink_to(path.parent / "precious")


def _huge(path: Path) -> None:
    """Names a process as no system can number it, and says nothing of its start."""
    left_behind(path.with_name("run"), pid=10**30, ticks=None)


@pytest.mark.parametrize("make", [_foreign, _pipe, _link, _huge])
def test_what_is_no_lock_of_ours_is_left_alone(
    tmp_path: Path, has_locks: bool, make: Callable[[Path], None]
) -> None:
    (tmp_path / "precious").write_text("mine")
    make(tmp_path / ".run.lock")
    with pytest.raises(OutputUnwritable, match=r"\.run\.lock"), sole_writer(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
    assert os.path.lexists(tmp_path / ".run.lock")


def test_an_empty_lock_is_of_one_that_was_killed_at_once(tmp_path: Path, has_locks: bool) -> None:
    _empty(tmp_path / ".run.lock")
    assert_free(tmp_path / "run")


def test_folders_made_for_a_lock_go_with_it_unless_they_are_used(tmp_path: Path) -> None:
    with sole_writer(tmp_path / "a" / "b" / "run"):
        pass
    assert list(tmp_path.iterdir()) == []
    with sole_writer(tmp_path / "a" / "b" / "run"):
        (tmp_path / "a" / "b" / "run").mkdir()
    assert (tmp_path / "a" / "b" / "run").is_dir()


def test_a_lock_made_anew_after_the_first_was_removed_by_hand_is_kept(tmp_path: Path) -> None:
    path = tmp_path / ".run.lock"
    with sole_writer(tmp_path / "run"):
        path.unlink()
        path.write_text("another's")
    assert path.read_text() == "another's"


def test_in_place_where_the_folder_around_cannot_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "run").mkdir()
    monkeypatch.setattr(lock.os, "access", lambda path, _: path != tmp_path)
    with sole_writer(tmp_path / "run", in_place=True):
        assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]
    assert list((tmp_path / "run").iterdir()) == []
