"""Writes files beside the main thread, which meanwhile imports a library and plans the surgery."""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final, Protocol

from scalenet_cli.bundle.manifest import FileEntry, Role
from scalenet_cli.bundle.tensor_files import TensorFile, write_file
from scalenet_cli.errors import ScalenetError, SystemFailure
from scalenet_cli.families.sources.tensors import FileTensor
from scalenet_cli.files.stop_requests import STOP_SIGNALS

_MAX_WRITERS: Final = 4
_WORTH_A_PROCESS_BYTES: Final = 100_000_000
_SWITCH_SECONDS: Final = 0.00003
_PR_SET_PDEATHSIG: Final = 1


class BackgroundWriter(Protocol):
    """Writes files inside its ``with`` block; what is unfinished at its end is dropped."""

    def __enter__(self) -> "BackgroundWriter": ...

    def __exit__(self, *_: object) -> None: ...

    def entries(self) -> Mapping[str, FileEntry]:
        """Waits for all files; the first failure is raised here.

        Raises:
            ScalenetError: a file could not be read.
            OSError: a file could not be written.
        """
        ...


def background_writer(folder: Path, role: Role, files: Sequence[TensorFile]) -> BackgroundWriter:
    """In processes, where that pays and this one can be forked; in threads elsewhere.

    Only Linux ends a fork with its parent, and a fork of several threads, as torch has, may wait
    forever for a lock of a thread that it does not have.
    """
    tensors = [tensor for file in files for tensor in file.tensors.values()]
    if (
        sys.platform == "linux"
        and "torch" not in sys.modules
        and threading.active_count() == 1
        and not multiprocessing.current_process().daemon  # which may have no children
        and all(isinstance(tensor, FileTensor) for tensor in tensors)
        and sum(tensor.spec.num_bytes for tensor in tensors) >= _WORTH_A_PROCESS_BYTES
    ):
        return _WritingProcesses(folder, role, files)
    return _WritingThreads(folder, role, files)


class _WritingThreads:
    """Hashing and file access release the interpreter lock, so two threads keep two cores busy.

    They need it for microseconds between two chunks, but a thread that imports hands it over only
    when Python's switch interval of 5 ms is over; so that is shortened while files are written.
    """

    def __init__(self, folder: Path, role: Role, files: Sequence[TensorFile]) -> None:
        self._folder, self._role, self._files = folder, role, files
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(_MAX_WRITERS, thread_name_prefix="write")
        self._futures: dict[str, Future[FileEntry]] = {}
        self._switch_interval = sys.getswitchinterval()

    def __enter__(self) -> "_WritingThreads":
        try:
            sys.setswitchinterval(_SWITCH_SECONDS)
            for file in self._files:
                self._futures[file.name] = self._pool.submit(
                    write_file, self._folder, self._role, file, self._stop
                )
        except BaseException:  # a signal: the folder is removed next, and nobody may write into it
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        sys.setswitchinterval(self._switch_interval)
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def entries(self) -> Mapping[str, FileEntry]:
        """See BackgroundWriter."""
        return {name: future.result() for name, future in self._futures.items()}


class _WritingProcesses:
    """Importing holds the interpreter lock most of the time; processes have one each."""

    def __init__(self, folder: Path, role: Role, files: Sequence[TensorFile]) -> None:
        self._folder, self._role = folder, role
        self._shares = _shares(files, min(_MAX_WRITERS, os.cpu_count() or 1))
        self._workers: list[tuple[BaseProcess, Connection]] = []

    def __enter__(self) -> "_WritingProcesses":
        try:
            for share in self._shares:
                self._start(share)
        except OSError as error:  # of a fork or a pipe: the files are the workers' business
            self.__exit__()
            raise SystemFailure(
                f"no process can be started to copy the checkpoint: {error.strerror}",
                where=str(self._folder),
                hint="free memory, or raise the limits (ulimit -u, ulimit -n, a container's pids)",
            ) from None
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, share: Sequence[TensorFile]) -> None:
        fork = multiprocessing.get_context("fork")
        found, answer = fork.Pipe(duplex=False)
        arguments = (os.getpid(), answer, self._folder, self._role, share)
        process = fork.Process(target=_write_share, args=arguments, daemon=True)
        self._workers.append((process, found))
        # Python would obey a signal between the fork and its note of the worker's number, and a
        # worker would unwind the parent's stack.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        # The worker alone may hold this end, so that its end is noticed.
        answer.close()

    def __exit__(self, *_: object) -> None:
        started = [process for process, found in self._workers if process.pid is not None]
        for process in started:
            process.kill()
        for process in started:
            process.join()
        for _process, found in self._workers:
            found.close()

    def entries(self) -> Mapping[str, FileEntry]:
        """See BackgroundWriter."""
        entries: dict[str, FileEntry] = {}
        for _, found in self._workers:
            try:
                result = found.recv()
            except (EOFError, OSError):
                raise SystemFailure(
                    "a process that copies the checkpoint was ended from outside",
                    where=str(self._folder),
                    hint="if memory ran out, free some; then run the command again",
                ) from None
            if isinstance(result, Exception):
                raise result
            entries |= result
        return entries


def _shares(files: Sequence[TensorFile], number: int) -> list[list[TensorFile]]:
    """Files spread over at most ``number`` writers, each to write about as many bytes."""
    shares: list[tuple[int, list[TensorFile]]] = [(0, []) for _ in range(min(number, len(files)))]
    sizes = {file.name: sum(t.spec.num_bytes for t in file.tensors.values()) for file in files}
    for file in sorted(files, key=lambda file: -sizes[file.name]):
        index = min(range(len(shares)), key=lambda i: shares[i][0])
        taken, share = shares[index]
        shares[index] = (taken + sizes[file.name], [*share, file])
    return [share for _, share in shares]


def _write_share(
    parent: int, answer: Connection, folder: Path, role: Role, files: Sequence[TensorFile]
) -> None:
    """The whole life of a worker; answers with the files' entries, or with what went wrong."""
    # Ctrl-C reaches all processes of a terminal; the parent decides what becomes of this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for request in STOP_SIGNALS:
        # nohup has SIGHUP ignored, and so it stays.
        if request != signal.SIGINT and callable(signal.getsignal(request)):
            signal.signal(request, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    if os.getppid() != parent:  # killed before the line above
        return
    try:
        answer.send({file.name: write_file(folder, role, file) for file in files})
    except (ScalenetError, OSError, MemoryError) as error:
        answer.send(error)
