"""Who holds a lock: a process as its lock file names it, and whether it is still running."""

import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, Field, ValidationError

_PROC: Final = Path("/proc")
State = Literal["running", "ended", "unknown"]


class Holder(BaseModel, extra="forbid", frozen=True):
    """A process that writes to a folder."""

    host: str = Field(max_length=255)
    pid: int = Field(gt=0, lt=2**31)
    since: str = Field(max_length=40, description="when it began to write, with its time zone")
    kernel: str = Field(description="one boot of one machine, containers on it included")
    processes: str = Field(description="the PID namespace: elsewhere the pid is another process")
    ticks: int | None = Field(description="when the process started, since the boot")
    job: str | None = Field(description="of Slurm")
    restart: int = Field(description="how often Slurm has started this job again")

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    def text(self) -> bytes:
        """As it is written to a file."""
        return self.model_dump_json(indent=1).encode() + b"\n"

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """What ``text`` wrote; None of anything else."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None


def this_process() -> Holder:
    """This process, as it begins to write."""
    host, restart = socket.gethostname(), os.environ.get("SLURM_RESTART_COUNT", "")
    return Holder(
        host=host,
        pid=os.getpid(),
        since=datetime.now().astimezone().isoformat(" ", "seconds"),
        # Without Linux's /proc, machines are told apart by their names.
        kernel=_text(_PROC / "sys/kernel/random/boot_id") or host,
        processes=_link(_PROC / "self/ns/pid"),
        ticks=_started(os.getpid()),
        job=os.environ.get("SLURM_JOB_ID"),
        restart=int(restart) if restart.isdecimal() else 0,
    )


def state_of(holder: Holder, *, locked: bool) -> State:
    """What can be said from here of a process that a lock file names.

    ``locked``: this process has the kernel's lock of that file. Any holder that lives under the
    same kernel would have it, be it in another container.
    """
    me = this_process()
    if holder.job is not None and (holder.job, me.restart > holder.restart) == (me.job, True):
        return "ended"  # Slurm starts a job again when all of its processes have ended
    if holder.kernel != me.kernel:
        return "ended" if holder.host == me.host else "unknown"  # the machine was started anew
    if locked:
        return "ended"
    if holder.processes != me.processes:
        return "unknown"
    return "running" if _is_running(holder) else "ended"


def _is_running(holder: Holder) -> bool:
    """Whether the process lives that was given the number then; another may have it since."""
    if holder.ticks is not None:
        return _started(holder.pid) == holder.ticks
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _started(pid: int) -> int | None:
    """When a process was started, in clock ticks since the boot; None where it has ended."""
    # The name, in parentheses, may itself have spaces and parentheses; after it stands the state.
    fields = _text(_PROC / str(pid) / "stat").rpartition(")")[2].split()
    if not fields or fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _link(path: Path) -> str:
    try:
        return str(path.readlink())
    except OSError:
        return ""
