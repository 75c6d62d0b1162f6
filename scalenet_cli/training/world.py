"""Which of several processes this one is, by what its launcher left in the environment. No torch.

torchrun and ``accelerate launch`` set torch's own names (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT); srun and mpirun set names of theirs. A process that
looked at torch's names alone would take itself for the only one, and so would all of its peers: as
many writers of one run as there are processes.
"""

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, final

from scalenet_cli.errors import LaunchUnclear, OptionError

Environment = Mapping[str, str]
# What torch.distributed uses where nobody says otherwise.
DEFAULT_PORT: Final = 29500
_LOOPBACK: Final = "127.0.0.1"
# Slurm counts its special steps down from here: the batch script, a shell of salloc, and others.
_SPECIAL_STEPS: Final = 0xFFFFFFF0
_HINT: Final = (
    "start it with torchrun, `accelerate launch`, srun, mpirun or --gpus; or set RANK, WORLD_SIZE, "
    "LOCAL_RANK, MASTER_ADDR and MASTER_PORT for every process, and none of them for a single one"
)


@final
@dataclass(frozen=True, slots=True)
class World:
    """The place of this process among its peers; local numbers are those of this machine.

    ``address`` and ``port`` say where rank 0 waits for the others.
    """

    rank: int = 0
    num_ranks: int = 1
    local_rank: int = 0
    num_local_ranks: int = 1
    address: str = _LOOPBACK
    port: int = DEFAULT_PORT

    def variables(self) -> dict[str, str]:
        """The same in torch's names."""
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.num_ranks),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_WORLD_SIZE": str(self.num_local_ranks),
            "MASTER_ADDR": self.address,
            "MASTER_PORT": str(self.port),
        }


@final
@dataclass(frozen=True, slots=True)
class _Claim:
    """What one launcher says; None is what it does not say."""

    rank: int | None
    num_ranks: int | None
    local_rank: int | None
    num_local_ranks: int | None

    @property
    def is_whole(self) -> bool:
        """Whether it says which of how many."""
        return self.rank is not None and self.num_ranks is not None

    def agrees(self, other: "_Claim") -> bool:
        """Whether nothing that both say differs."""
        pairs = (
            (self.rank, other.rank),
            (self.num_ranks, other.num_ranks),
            (self.local_rank, other.local_rank),
        )
        return all(mine == theirs or None in (mine, theirs) for mine, theirs in pairs)


_TORCH: Final = (("RANK",), ("WORLD_SIZE",), ("LOCAL_RANK",), ("LOCAL_WORLD_SIZE",))
# Open MPI and what is built on it; MPICH, Intel MPI and Cray's; MVAPICH2.
_MPI: Final = (
    (
        ("OMPI_COMM_WORLD_RANK",),
        ("OMPI_COMM_WORLD_SIZE",),
        ("OMPI_COMM_WORLD_LOCAL_RANK",),
        ("OMPI_COMM_WORLD_LOCAL_SIZE",),
    ),
    (
        ("PMI_RANK",),
        ("PMI_SIZE",),
        ("MPI_LOCALRANKID", "PMI_LOCAL_RANK"),
        ("MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"),
    ),
    (
        ("MV2_COMM_WORLD_RANK",),
        ("MV2_COMM_WORLD_SIZE",),
        ("MV2_COMM_WORLD_LOCAL_RANK",),
        ("MV2_COMM_WORLD_LOCAL_SIZE",),
    ),
)
_ALONE: Final = _Claim(0, 1, 0, 1)


def this_world() -> World:
    """The place of this process.

    Raises:
        LaunchUnclear: see find_world.
    """
    return find_world(os.environ)


def require_single(command: str, hint: str | None = None) -> None:
    """No launcher started several processes of a command that is one process.

    Raises:
        OptionError: one did: all would do the same work, and write the same files.
        LaunchUnclear: see find_world.
    """
    world = this_world()
    if world.num_ranks > 1:
        raise OptionError(
            f"{command} runs in one process, but a launcher started {world.num_ranks}", hint=hint
        )


def find_world(environment: Environment) -> World:
    """The place of the process with this environment, or that of a single process.

    torch's own names win where RANK and WORLD_SIZE are both set, as by torchrun inside of srun.
    Then come mpirun, which Slurm may have started, and srun.

    Raises:
        LaunchUnclear: there are several processes, but not all that is needed to tell them apart.
    """
    told = _claim(environment, _TORCH)
    is_complete = told.is_whole and told.local_rank is not None
    launched = [] if is_complete else _launched(environment)
    chosen = told if told.is_whole else _choose(environment, told, launched)
    world = _complete(chosen, [told, *launched])
    if world.num_ranks == 1:
        return world
    slurm = _slurm_claim(environment)
    by_slurm = slurm is not None and slurm.agrees(chosen)
    return replace(
        world,
        address=environment.get("MASTER_ADDR") or _address(environment, world, by_slurm=by_slurm),
        port=_number(environment, "MASTER_PORT") or _port(environment, by_slurm=by_slurm),
    )


def _launched(environment: Environment) -> list[_Claim]:
    """What launchers other than torch's say; mpirun first, because srun may have started it."""
    claims = [*(_claim(environment, names) for names in _MPI), _slurm_claim(environment)]
    return [claim for claim in claims if claim is not None and claim.is_whole]


def _choose(environment: Environment, told: _Claim, launched: Iterable[_Claim]) -> _Claim:
    """A launcher of several processes, or else a single one; what torch's names say must agree."""
    chosen = next((claim for claim in launched if claim.num_ranks != 1), _ALONE)
    if not told.agrees(chosen):
        names = [name for (name,) in _TORCH if environment.get(name)]
        raise LaunchUnclear(
            f"the environment has {', '.join(f'{name}={environment[name]}' for name in names)}, "
            "but not all of RANK, WORLD_SIZE and LOCAL_RANK, and no launcher's names that agree",
            hint=_HINT,
        )
    if chosen is _ALONE and _number(environment, "SLURM_PROCID"):
        raise LaunchUnclear(
            f"SLURM_PROCID is {environment['SLURM_PROCID']}, but SLURM_STEP_ID names no step of "
            "srun with several tasks",
            hint="start it with srun or torchrun, and let it have Slurm's variables",
        )
    return chosen


def _complete(chosen: _Claim, claims: Iterable[_Claim]) -> World:
    """The choice, with local numbers of whoever agrees with it and knows them."""
    rank, num_ranks = chosen.rank or 0, chosen.num_ranks or 1
    same = [chosen, *(claim for claim in claims if claim.agrees(chosen))]
    local = next((claim.local_rank for claim in same if claim.local_rank is not None), None)
    beside = next((c.num_local_ranks for c in same if c.num_local_ranks is not None), None)
    if local is None and num_ranks > 1:
        raise LaunchUnclear(
            f"this is rank {rank} of {num_ranks}, but nothing says which one of this machine: "
            "LOCAL_RANK is not set",
            hint="export LOCAL_RANK; it is 0 where every machine has one process",
        )
    local = local or 0
    # At least as many as the number of this one says.
    beside = beside or local + 1
    if rank >= num_ranks or local >= beside or beside > num_ranks:
        raise LaunchUnclear(
            f"rank {rank} of {num_ranks}, and on this machine {local} of {beside}, is impossible: "
            "ranks count from 0",
            hint=_HINT,
        )
    return World(rank, num_ranks, local, beside)


def _claim(environment: Environment, names: tuple[tuple[str, ...], ...]) -> _Claim:
    return _Claim(*(_number(environment, *alternatives) for alternatives in names))


def _number(environment: Environment, *names: str) -> int | None:
    """The first of these that is set and not empty."""
    name = next((name for name in names if environment.get(name)), None)
    if name is None:
        return None
    if not environment[name].isdecimal():
        raise LaunchUnclear(f"{name} is {environment[name]!r}, which is no number", hint=_HINT)
    return int(environment[name])


def _slurm_claim(environment: Environment) -> _Claim | None:
    """What srun says; None outside of its steps.

    A batch script and the shell of salloc have the names of a job of many tasks, but are one
    process: only a step of srun starts a process per task.
    """
    step = environment.get("SLURM_STEP_ID", "")
    if not step.isdecimal() or int(step) >= _SPECIAL_STEPS:
        return None
    rank = _number(environment, "SLURM_PROCID")
    num_ranks = _number(environment, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    local = _number(environment, "SLURM_LOCALID")
    return _Claim(rank, num_ranks, local, _tasks_of_node(environment, num_ranks))


def _tasks_of_node(environment: Environment, num_ranks: int | None) -> int | None:
    """Tasks of this step on this machine, of a list such as ``4(x2),1``."""
    counts: list[int] = []
    listed = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", listed):
        counts += [int(count)] * int(times or 1)
    node = _number(environment, "SLURM_NODEID") or 0
    if node < len(counts):
        return counts[node]
    nodes = _number(environment, "SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    return num_ranks if nodes == 1 else None


def _address(environment: Environment, world: World, *, by_slurm: bool) -> str:
    """The machine of rank 0."""
    if world.num_local_ranks == world.num_ranks:
        return _LOOPBACK
    names = ("SLURM_STEP_NODELIST", "SLURM_NODELIST", "SLURM_JOB_NODELIST")
    nodes = next((environment[name] for name in names if environment.get(name)), None)
    if by_slurm and nodes:
        return first_host(nodes)
    raise LaunchUnclear(
        f"this is rank {world.rank} of {world.num_ranks} on several machines, and nothing says "
        "where rank 0 is",
        hint="export MASTER_ADDR, the name of its machine, and MASTER_PORT for every process",
    )


def _port(environment: Environment, *, by_slurm: bool) -> int:
    """The same for all ranks of a step, and another one for a job beside it."""
    if not by_slurm:
        return DEFAULT_PORT
    job = _number(environment, "SLURM_JOB_ID", "SLURM_JOBID") or 0
    return 20_000 + (job + (_number(environment, "SLURM_STEP_ID") or 0)) % 20_000


def first_host(nodes: str) -> str:
    """The first name of a list as Slurm writes it.

    >>> first_host("gpu[007-010,12],login1")
    'gpu007'
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", nodes)
    assert first is not None
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0])
