"""This process among those that a launcher started."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import distributed

from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.training.devices import Devices, open_devices
from scalenet_cli.version import TOOL


@contextmanager
def joined(device: str) -> Iterator[Devices]:
    """This process among its peers, which it leaves if it was not among them before."""
    member = distributed.is_initialized()
    yield open_devices(device)
    # Not after an error: the peers may wait for this process, and the launcher ends them.
    if not member and distributed.is_initialized():
        distributed.destroy_process_group()


def require_same_evaluation(
    devices: Devices, target: str, facts: Callable[[], Mapping[str, str]]
) -> None:
    """All ranks evaluate one model on the same data; a checkpoint that is no bundle has no digest.

    Raises:
        RanksDiffer: they do not.
    """
    if devices.num_ranks == 1:
        return
    folder = bundle_folder(Path(target))
    bundle = read_manifest(folder).digest if is_bundle(folder) else "none"
    devices.require_same({"version": TOOL, "bundle": bundle, **facts()})
