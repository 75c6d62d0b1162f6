"""Which device and which rank this process is. Accelerate starts and names them."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final, Literal, TypeVar, final

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import distributed

from scalenet_cli.errors import (
    DeviceUnavailable,
    LaunchUnclear,
    RankLost,
    RanksDiffer,
    ScalenetError,
)
from scalenet_cli.training.world import World, this_world

T = TypeVar("T")
Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A rank that says nothing for so long is taken for lost.
SILENCE: Final = timedelta(minutes=10)
# For one that reads all data once: hours where they lie on a network disk.
READING: Final = timedelta(days=2)


@final
@dataclass(frozen=True)
class Devices:
    """This process among its peers."""

    device: torch.device
    rank: int
    num_ranks: int

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes and prints."""
        return self.rank == 0

    @contextmanager
    def autocast(self, precision: Precision) -> Iterator[None]:
        """Matrix products in the given type."""
        if precision == "fp32":
            yield
        else:
            with torch.autocast(self.device.type, DTYPES[precision]):
                yield

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum over all ranks, in place.

        Raises:
            RankLost: a rank does not answer.
        """
        if self.num_ranks > 1:
            with answered():
                distributed.all_reduce(tensor)
        return tensor

    def gather(self, item: Any, group: Any = None) -> list[Any]:
        """One plain object of every rank, in the order of ranks."""
        if self.num_ranks == 1:
            return [item]
        items: list[Any] = [None] * self.num_ranks
        with answered():
            distributed.all_gather_object(items, item, group)
        return items

    def run_on_main_rank(
        self, work: Callable[[], T], *, patience: timedelta | None = None
    ) -> T | None:
        """Does something on the main rank alone; the others wait, and end where it fails.

        They wait for as long as ``patience``, or by default as for any other message.

        Raises:
            ScalenetError: what the work raised, on the main rank.
            SystemExit: with its exit status, on the others, so that it is told once.
        """
        group = (
            distributed.new_group(timeout=patience, backend="gloo")
            if patience is not None and self.num_ranks > 1
            else None
        )
        result, failure = None, None
        if self.is_main:
            try:
                result = work()
            except ScalenetError as error:
                failure = error
        status = self.gather(None if failure is None else failure.exit_code, group)[0]
        if failure is not None:
            raise failure
        if status is not None:
            raise SystemExit(status)
        return result

    def run_on_all_ranks(self, work: Callable[[], T]) -> T:
        """Does something on every rank; where one fails, all end, and each failure is told once.

        Raises:
            ScalenetError: what the work raised, on the first rank that it failed on in this way.
            SystemExit: with its exit status, on the others.
        """
        failure = None
        try:
            result = work()
        except ScalenetError as error:
            failure = error
        mine = None if failure is None else (str(failure), failure.exit_code)
        told = self.gather(mine)
        if failure is not None and mine not in told[: self.rank]:
            raise failure
        for _, status in filter(None, told):
            raise SystemExit(status)
        return result

    def require_same(self, facts: Mapping[str, str]) -> None:
        """All ranks have the same facts: what they are named, and a digest or the like.

        Raises:
            RanksDiffer: on the first rank, where one differs; it says which, and in what.
            SystemExit: with its exit status, on the others.
        """
        everywhere = self.gather(dict(facts))
        self.run_on_all_ranks(lambda: _compare(everywhere))


def _compare(everywhere: Sequence[Mapping[str, str]]) -> None:
    first = everywhere[0]
    found = [
        f"rank {rank} has {name} {facts.get(name, '-')[:40]}, rank 0 {first.get(name, '-')[:40]}"
        for rank, facts in enumerate(everywhere)
        for name in {**first, **facts}
        if facts.get(name) != first.get(name)
    ]
    if found:
        raise RanksDiffer(
            "; ".join(found),
            hint="all ranks need the same version of scalenet, options, bundle and data: look at "
            "what their machines have under these paths",
        )


@contextmanager
def answered() -> Iterator[None]:
    """Collective work that needs every rank.

    Raises:
        RankLost: gloo or NCCL says that a peer is gone.
    """
    try:
        yield
    except (distributed.DistBackendError, distributed.DistNetworkError, RuntimeError) as error:
        if not is_lost_rank(error):
            raise
        raise RankLost(
            f"another rank does not answer: {str(error).splitlines()[0][:200]}",
            hint="the first error in the log of the ranks is the cause; then add --resume",
        ) from None


def is_lost_rank(error: BaseException) -> bool:
    """Whether an error of torch.distributed means that a peer is gone."""
    text = str(error).lower()
    words = ("connection closed", "connection reset", "timed out", "broken pipe", "socket")
    return isinstance(error, distributed.DistBackendError) or (
        any(word in text for word in words) and any(w in text for w in ("gloo", "nccl", "tcp"))
    )


def find_device(wanted: str = "auto") -> torch.device:
    """The device of that name; of ``auto`` the fastest kind that is there.

    Raises:
        DeviceUnavailable: there is none.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if wanted == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind, colon, index = wanted.partition(":")
    numbered = not colon or (index.isdecimal() and int(index) < max(torch.cuda.device_count(), 1))
    if not (available.get(kind, False) and numbered):
        names = ", ".join(name for name, there in available.items() if there)
        raise DeviceUnavailable(
            f"--device {wanted} was asked for, but PyTorch finds none here",
            hint=f"available: {names}; torch {torch.__version__} was built for "
            f"{'CUDA ' + str(torch.version.cuda) if torch.version.cuda else 'the CPU'}",
        )
    return torch.device(wanted)


def open_devices(wanted: str = "auto") -> Devices:
    """The device of this process; joins its peers where a launcher started several.

    Raises:
        DeviceUnavailable: CUDA or MPS was asked for and is not there.
        LaunchUnclear: there are several processes, and it is not clear which one this is.
        RankLost: the others did not come.
    """
    world = this_world()
    device = find_device(wanted)
    _require_one_per_rank(device, world, wanted)
    if world.num_ranks == 1:
        # Accelerate would keep the device of the first call for the life of the process.
        return Devices(device, 0, 1)
    if device.type == "cpu":
        _share_cores(world.num_local_ranks)
    # torch and Accelerate read these; a launcher such as srun does not set them.
    os.environ |= world.variables()
    devices = _join(world, device)
    if (devices.rank, devices.num_ranks) != (world.rank, world.num_ranks):
        raise LaunchUnclear(
            f"the environment says rank {world.rank} of {world.num_ranks}, but Accelerate made "
            f"this rank {devices.rank} of {devices.num_ranks} on {devices.device}",
            hint="in a script of your own, make no Accelerator before the launcher's variables "
            "are set, nor one for another device",
        )
    return devices


def _require_one_per_rank(device: torch.device, world: World, wanted: str) -> None:
    """Every process of this machine has a device, and each one of its own.

    Raises:
        DeviceUnavailable: it is not so.
    """
    local_ranks, gpus = world.num_local_ranks, torch.cuda.device_count()
    if device.type == "cuda" and local_ranks > gpus:
        raise DeviceUnavailable(
            f"{local_ranks} processes were started on this machine, but it has {gpus} GPUs",
            hint=f"start {gpus}, or use --device cpu; srun's --gpus-per-task hides GPUs from "
            "tasks: use --gpus-per-node",
        )
    if world.num_ranks == 1:
        return
    if device.type == "mps":
        raise DeviceUnavailable(
            f"{world.num_ranks} processes were started, but MPS serves one",
            hint="start one, or use --device cpu",
        )
    if device.index is not None:
        raise DeviceUnavailable(
            f"--device {wanted} names one device, but there are several processes",
            hint=f"--device {device.type}: each process takes the one of its local rank",
        )


def _join(world: World, device: torch.device) -> Devices:
    try:
        accelerator = Accelerator(
            cpu=device.type == "cpu",
            mixed_precision="no",
            kwargs_handlers=[InitProcessGroupKwargs(timeout=SILENCE)],
        )
    except (distributed.DistNetworkError, distributed.DistStoreError) as error:
        raise RankLost(
            f"the {world.num_ranks} ranks did not meet at {world.address}:{world.port}: "
            f"{str(error).splitlines()[0][:200]}",
            hint="start all of them; MASTER_ADDR is where rank 0 runs, and MASTER_PORT is free "
            "there",
        ) from None
    return Devices(accelerator.device, accelerator.process_index, accelerator.num_processes)


def _share_cores(local_ranks: int) -> None:
    """Each rank gets its part of the cores, as under torchrun; Accelerate would guess and warn."""
    if "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, (os.cpu_count() or 1) // local_ranks)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        torch.set_num_threads(threads)
