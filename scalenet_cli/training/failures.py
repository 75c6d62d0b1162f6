"""Failures of the machine that PyTorch reports as a RuntimeError, in words that help."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from scalenet_cli.errors import OptionError, WorkerLost

_WORKER: Final = ("dataloader worker", "shared memory", "unable to write to file </torch_")
_MEMORY: Final = ("out of memory", "can't allocate memory", "not enough memory")


@contextmanager
def explained() -> Iterator[None]:
    """Work that loads data and runs a model.

    Raises:
        WorkerLost: a process that loads data was killed, or found no shared memory.
        OptionError: the batch does not fit into the memory.
    """
    try:
        yield
    except RuntimeError as error:
        text = " ".join(str(error).split())
        if isinstance(error, torch.OutOfMemoryError) or any(w in text.lower() for w in _MEMORY):
            raise OptionError(
                f"the batch does not fit into the memory: {text[:200]}",
                hint="a larger --accumulate with the same --batch-size, --gradient-checkpointing, "
                "or --precision bf16; for evaluation a smaller --eval-batch-size",
            ) from None
        if any(words in text.lower() for words in _WORKER):
            raise WorkerLost(
                f"a process that loads data has ended: {text[:200]}",
                hint="memory or /dev/shm may be too small: use fewer --workers, or --workers 0; "
                "then add --resume",
            ) from None
        raise
