"""Failures of the machine that PyTorch reports as a RuntimeError, in words that help."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from scalenet_cli.errors import OptionError, WorkerLost

_WORKER: Final = ("dataloader worker", "shared memory", "unable to write to file </torch_")
# What PyTorch says: CUDA and MPS in one class or text each, the CPU's allocator in a RuntimeError.
_MEMORY: Final = (
    "out of memory", "can't allocate memory", "not enough memory", "defaultcpuallocator",
)  # fmt: skip


@contextmanager
def explained(*, memory: str, worker: str) -> Iterator[None]:
    """Work that loads data and runs a model; the hints say what to do about either.

    Raises:
        WorkerLost: a process that loads data was killed, or found no shared memory.
        OptionError: the batch does not fit into the memory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = " ".join(str(error).split())
        full = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if full or any(words in text.lower() for words in _MEMORY):
            raise OptionError(
                f"the batch does not fit into the memory: {text[:200]}", hint=memory
            ) from None
        if any(words in text.lower() for words in _WORKER):
            raise WorkerLost(
                f"a process that loads data has ended: {text[:200]}",
                hint=f"memory or /dev/shm may be too small: {worker}",
            ) from None
        raise
