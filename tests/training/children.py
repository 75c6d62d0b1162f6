"""Processes that are started, asked to stop and killed: cheap, because they are forked.

A process that has run autograd cannot be forked and train. So a server is forked off when the tests
are collected, with every import done; it forks the children.
"""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, final

import torch
from torch import distributed

DEADLINE = 120.0


@final
@dataclass(frozen=True)
class Child:
    """A process that leads a group of its own; ``log`` has its stdout and stderr."""

    server: Connection
    pid: int
    log: Path

    def poll(self) -> int | None:
        """The exit status, minus a signal's number where that killed it; None while it runs."""
        self.server.send(("poll", self.pid))
        status: int | None = self.server.recv()
        return status

    def wait(self, *, seconds: float = DEADLINE) -> int:
        """Waits for the exit status; kills the group where it takes too long."""
        until = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > until:
                self.kill(signal.SIGKILL)
                raise AssertionError(f"no end within {seconds:g} s:\n{self.text()}")
            time.sleep(0.01)
        return status

    def kill(self, number: int) -> None:
        """A signal for the whole group, data loading included, as a terminal sends it."""
        os.killpg(self.pid, number)

    def text(self) -> str:
        """What it has written so far."""
        return self.log.read_text()

    def wait_until(self, condition: Callable[[], bool], *, seconds: float = DEADLINE) -> None:
        """Until something holds, while the process runs."""
        until = time.monotonic() + seconds
        while not condition():
            assert self.poll() is None, self.text()
            assert time.monotonic() < until, f"not within {seconds:g} s:\n{self.text()}"
            time.sleep(0.005)


@final
class Server:
    """Forks children of a process that has never trained."""

    def __init__(self) -> None:
        self._connection, theirs = Pipe()
        self._pid = os.fork()
        if not self._pid:
            self._connection.close()
            _serve(theirs)
        theirs.close()

    def start(self, log: Path, work: Callable[..., object], *arguments: Any, **named: Any) -> Child:
        """Runs a function of a module in a child."""
        self._connection.send(("start", log, work, arguments, named))
        return Child(self._connection, self._connection.recv(), log)

    def close(self) -> None:
        """Ends the server; its children are their starters' business."""
        self._connection.close()
        os.waitpid(self._pid, 0)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def as_rank(rank: int, num_ranks: int, port: int) -> Iterator[None]:
    """This process as torchrun would start it; its process group ends with the block."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks), "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _serve(connection: Connection) -> NoReturn:
    statuses: dict[int, int] = {}
    while True:
        try:
            kind, *request = connection.recv()
        except (EOFError, OSError):
            os._exit(0)
        if kind == "start":
            connection.send(_fork(*request))
            continue
        (pid,) = request
        if pid not in statuses:
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        connection.send(statuses.get(pid))


def _fork(log: Path, work: Callable[..., object], arguments: Any, named: Any) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        # Makes torch's thread pool anew while nothing else runs: its threads race for it after.
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 1)
        os.dup2(target, 2)
        sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
        sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        work(*arguments, **named)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
