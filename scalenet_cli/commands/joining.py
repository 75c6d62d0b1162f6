"""This process among those that a launcher started."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import distributed

from scalenet_cli.training.devices import Devices, open_devices


@contextmanager
def joined(device: str) -> Iterator[Devices]:
    """This process among its peers, which it leaves if it was not among them before."""
    member = distributed.is_initialized()
    yield open_devices(device)
    # Not after an error: the peers may wait for this process, and the launcher ends them.
    if not member and distributed.is_initialized():
        distributed.destroy_process_group()
