"""Which rank a process is, by launcher; and ranks that do not belong together."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from typer.testing import Result

from scalenet_cli import load
from scalenet_cli.errors import LaunchUnclear, OptionError, RankLost
from scalenet_cli.training import devices
from scalenet_cli.training.devices import open_devices
from scalenet_cli.training.world import World, find_world, first_host, require_single
from tests.training.children import Child, Server, free_port
from tests.training.runs import (
    BOUND,
    COMPARABLE,
    largest_difference,
    losses,
    parameters_of,
    slow,
    train,
    write_bundle,
    write_data,
)

LOOP = "127.0.0.1"
TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "head", "MASTER_PORT": "1234",
}  # fmt: skip
SRUN = {
    "SLURM_JOB_ID": "40007", "SLURM_STEP_ID": "0", "SLURM_PROCID": "9", "SLURM_NTASKS": "16",
    "SLURM_STEP_NUM_TASKS": "16", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_NNODES": "2",
    "SLURM_STEP_TASKS_PER_NODE": "8(x2)", "SLURM_NODELIST": "gpu[07-08]",
}  # fmt: skip
# A batch script: the job's numbers, and those of its only process.
SBATCH = {
    "SLURM_JOB_ID": "40007", "SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0", "SLURM_NNODES": "2", "SLURM_NODELIST": "gpu[07-08]",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}  # fmt: skip
INTEL_MPI = {
    "PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2",
}  # fmt: skip
POD = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "pod-0"}


def without(environment: Mapping[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name not in names}


@pytest.mark.parametrize(
    ("environment", "world"),
    [
        ({}, World()),
        ({"WORLD_SIZE": "1"}, World()),
        ({"LOCAL_RANK": "0", "RANK": ""}, World()),
        (TORCHRUN, World(5, 8, 1, 4, "head", 1234)),
        ({**SRUN, **TORCHRUN}, World(5, 8, 1, 4, "head", 1234)),
        ({**SRUN, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}, World()),
        (POD, World(1, 2, 0, 1, "pod-0", 29500)),
        (SRUN, World(9, 16, 1, 8, "gpu07", 20007)),
        ({**SRUN, "SLURM_STEP_ID": "3"}, World(9, 16, 1, 8, "gpu07", 20010)),
        ({**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "99"}, World(9, 16, 1, 8, "head", 99)),
        (without(SRUN, "SLURM_STEP_NUM_TASKS"), World(9, 16, 1, 8, "gpu07", 20007)),
        # Half of it by hand, as many scripts export it.
        ({**SRUN, "WORLD_SIZE": "16"}, World(9, 16, 1, 8, "gpu07", 20007)),
        ({**SRUN, "RANK": "9", "WORLD_SIZE": "16"}, World(9, 16, 1, 8, "gpu07", 20007)),
        (
            {**SRUN, "SLURM_NNODES": "1", "SLURM_NODEID": "0", "SLURM_STEP_TASKS_PER_NODE": ""},
            World(9, 16, 1, 16, LOOP, 20007),
        ),
        ({**SRUN, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, World()),
        (SBATCH, World()),
        ({**SBATCH, "SLURM_STEP_ID": "batch"}, World()),
        ({**SBATCH, "SLURM_STEP_ID": str(0xFFFFFFFB)}, World()),
        ({**SBATCH, "SLURM_STEP_ID": "interactive", "SLURM_STEP_NUM_TASKS": "1"}, World()),
        (without(SBATCH, "SLURM_PROCID", "SLURM_LOCALID"), World()),
        (OPEN_MPI, World(3, 4, 3, 4, LOOP)),
        # mpirun starts its own helper on every machine with srun.
        ({**SRUN, **OPEN_MPI}, World(3, 4, 3, 4, LOOP)),
        (INTEL_MPI, World(1, 2, 1, 2, LOOP)),
        ({**SRUN, "PMI_RANK": "9", "PMI_SIZE": "16"}, World(9, 16, 1, 8, "gpu07", 20007)),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "WORLD_SIZE": "4"}, World(3, 4, 3, 4)),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, World()),
    ],
)  # fmt: skip
def test_every_launcher_is_understood(environment: Mapping[str, str], world: World) -> None:
    assert find_world(environment) == world
    # Where it is passed on in torch's names, it is found again.
    assert find_world({**environment, **world.variables()}) == world


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, "LOCAL_RANK is not set"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE=2, but not all of"),
        ({"RANK": "1"}, "RANK=1, but not all of"),
        ({"LOCAL_RANK": "3"}, "LOCAL_RANK=3, but not all of"),
        ({**SRUN, "WORLD_SIZE": "1"}, "WORLD_SIZE=1, but not all of"),
        ({**SRUN, "RANK": "3"}, "RANK=3, but not all of"),
        ({**TORCHRUN, "RANK": "8"}, "rank 8 of 8"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "on this machine 4 of 4"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'"),
        ({**TORCHRUN, "WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        (without(TORCHRUN, "MASTER_ADDR"), "nothing says where rank 0 is"),
        ({**SBATCH, "SLURM_PROCID": "1"}, "SLURM_STEP_ID names no step"),
        ({**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_LOCAL_RANK": "0"},
         "nothing says where rank 0 is"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, "LOCAL_RANK is not set"),
    ],
)  # fmt: skip
def test_what_is_not_clear_is_refused(environment: Mapping[str, str], says: str) -> None:
    with pytest.raises(LaunchUnclear, match=says) as raised:
        find_world(environment)
    assert raised.value.hint


@pytest.mark.parametrize(
    ("listed", "first"),
    [
        ("node1", "node1"), ("node1,node2", "node1"), ("gpu[007-010,12],login1", "gpu007"),
        ("rack[2-3]n[08,09]", "rack2n08"), ("a[1,2]-ib", "a1-ib"),
    ],
)  # fmt: skip
def test_the_first_host_of_a_list(listed: str, first: str) -> None:
    assert first_host(listed) == first


@pytest.mark.parametrize("command", ["diagnose", "bench", "generate", "compare"])
def test_other_commands_are_one_process(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_single(command)
    for name, value in SRUN.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(OptionError, match=f"{command} runs in one process, but .* started 16"):
        require_single(command)


def test_a_rank_that_cannot_be_told_writes_nothing(
    run: Callable[..., Result],
    bundle: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With CUDA, Accelerate took such a process for the only one, as it did each of its peers."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    ended = run("finetune", bundle, "--data", data, "-o", tmp_path / "run")
    assert ended.exit_code == 2
    assert "error[launch-unclear]: this is rank 1 of 2" in ended.stderr
    assert not list(tmp_path.iterdir())


@pytest.fixture
def engine() -> Iterator[None]:
    """Accelerate as a fresh process has it, before and after."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def become_rank_one(monkeypatch: pytest.MonkeyPatch) -> int:
    """This process is rank 1 of 2; returns the port of a rank 0 that is not there."""
    port = free_port()
    for name, value in World(1, 2, 1, 2, LOOP, port).variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return port


@pytest.mark.usefixtures("engine")
def test_an_engine_of_another_world_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Accelerator(cpu=True)  # it keeps what it was first made for, as in a notebook
    become_rank_one(monkeypatch)
    says = "rank 1 of 2, but Accelerate made this rank 0 of 1"
    with pytest.raises(LaunchUnclear, match=says):
        open_devices("cpu")


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_ranks_that_do_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalenet_cli.training.devices.SILENCE", timedelta(seconds=1))
    port = become_rank_one(monkeypatch)
    with pytest.raises(RankLost, match=f"2 ranks did not meet at {LOOP}:{port}"):
        open_devices("cpu")


def srun_variables(rank: int, port: int) -> dict[str, str]:
    """Two tasks of one machine."""
    return {
        **SRUN, "SLURM_PROCID": f"{rank}", "SLURM_LOCALID": f"{rank}", "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2", "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_NODEID": "0",
        "MASTER_PORT": f"{port}",
    }  # fmt: skip


def two_nodes(rank: int, port: int) -> dict[str, str]:
    """One process each, as pods are started."""
    return {**POD, "RANK": f"{rank}", "MASTER_ADDR": LOOP, "MASTER_PORT": f"{port}"}


def mpirun_variables(rank: int, port: int) -> dict[str, str]:
    """Open MPI's, started inside of a step of srun."""
    return {
        **srun_variables(0, port), "SLURM_STEP_NUM_TASKS": "1",
        "OMPI_COMM_WORLD_RANK": f"{rank}", "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": f"{rank}", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    }  # fmt: skip


def mpiexec_variables(rank: int, port: int) -> dict[str, str]:
    """MPICH's and Intel MPI's."""
    return {
        **INTEL_MPI, "PMI_RANK": f"{rank}", "MPI_LOCALRANKID": f"{rank}", "MASTER_PORT": f"{port}",
    }  # fmt: skip


def torchrun_in_srun(rank: int, port: int) -> dict[str, str]:
    """One task, which started two processes."""
    names = World(rank, 2, rank, 2, LOOP, port).variables()
    return {**srun_variables(0, port), "SLURM_STEP_NUM_TASKS": "1", **names}


Launcher = Callable[[int, int], dict[str, str]]


def as_launched(variables: Mapping[str, str], *arguments: Any, **named: Any) -> None:
    """A rank's process."""
    os.environ |= {**variables, "OMP_NUM_THREADS": "1"}
    train(*arguments, **named)


def launch_two(
    server: Server, launcher: Launcher, bundles: Sequence[Path], data: Sequence[Path], run: Path,
    recipes: Sequence[Mapping[str, Any]],
) -> list[Child]:  # fmt: skip
    """Two gloo processes of one run; each has its own of everything."""
    port = free_port()
    children = [
        server.start(
            run.with_suffix(f".log{rank}"), as_launched, launcher(rank, port), bundles[rank],
            data[rank], run, recipes[rank],
        )
        for rank in range(2)
    ]  # fmt: skip
    for child in children:
        child.wait()
    return children


@pytest.mark.slow
@pytest.mark.parametrize(
    "launcher", [srun_variables, two_nodes, mpirun_variables, mpiexec_variables, torchrun_in_srun]
)
def test_every_launcher_makes_two_ranks_of_one_run(
    server: Server, bundle: Path, data: Path, tmp_path: Path, launcher: Launcher
) -> None:
    train(bundle, data, tmp_path / "one", COMPARABLE)
    two = [bundle] * 2, [data] * 2, tmp_path / "two", [COMPARABLE] * 2
    children = launch_two(server, launcher, *two)
    assert [child.poll() for child in children] == [0, 0], [child.text() for child in children]
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), abs=BOUND, rel=0)
    mine, theirs = (parameters_of(load(tmp_path / name / "last")) for name in ("one", "two"))
    assert largest_difference(mine, theirs)[0] < BOUND


@pytest.mark.parametrize("different", ["recipe", slow("data"), slow("bundle")])
def test_ranks_that_do_not_belong_together_write_nothing(
    server: Server, bundle: Path, data: Path, tmp_path: Path, different: str
) -> None:
    bundles, places, recipes = [bundle] * 2, [data] * 2, [COMPARABLE] * 2
    says = "rank 1 has "
    if different == "recipe":
        recipes[1] = {**COMPARABLE, "lr": 2e-3}
        says += "recipe lr 0.002, rank 0 0.005"
    elif different == "data":
        places[1] = write_data(tmp_path / "other", train=33)
        says += "training samples 33, rank 0 34; rank 1 has training data "
    elif different == "bundle":
        bundles[1] = write_bundle(tmp_path / "other", adapter={"dim": 3})
        says += "bundle "
    children = launch_two(server, srun_variables, bundles, places, tmp_path / "run", recipes)
    first, second = (child.text() for child in children)
    assert [child.poll() for child in children] == [1, 2], first + second
    assert f"RanksDiffer: error[ranks-differ]: {says}" in first
    assert not second
    assert not (tmp_path / "run").exists()


def wait_for_first(variables: Mapping[str, str], patience: timedelta | None) -> None:
    """A rank of two that give each other up after a second; the first one works for three."""
    os.environ |= {**variables, "OMP_NUM_THREADS": "1"}
    devices.SILENCE = timedelta(seconds=1)  # type: ignore[misc]
    open_devices("cpu").run_on_main_rank(lambda: time.sleep(3), patience=patience)


@pytest.mark.slow
@pytest.mark.parametrize("patience", [None, timedelta(minutes=1)])
def test_ranks_have_patience_with_one_that_reads_all_data(
    server: Server, tmp_path: Path, patience: timedelta | None
) -> None:
    port = free_port()
    children = [
        server.start(
            tmp_path / f"log{rank}", wait_for_first, srun_variables(rank, port), patience
        )
        for rank in range(2)
    ]  # fmt: skip
    first, second = (child.wait() for child in children)
    assert (second == 0) is (patience is not None), children[1].text()
    if patience is None:
        assert "RankLost" in children[1].text()
    else:
        assert first == 0
