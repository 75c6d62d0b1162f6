"""What an instance's own tensors hold before training: a description, and its execution."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from scalenet_cli.adapters.base import Constant as Constant
from scalenet_cli.adapters.base import Normal as Normal


@dataclass(frozen=True, slots=True)
class Copied:
    """The value of one tensor of the source model."""

    key: str


@dataclass(frozen=True, slots=True)
class Averaged:
    """The mean of several tensors of the source model."""

    keys: tuple[str, ...]


Value = Copied | Averaged | Constant | Normal


def compute_value(
    value: Value,
    key: str,
    like: torch.Tensor,
    *,
    seed: int,
    read: Callable[[str], torch.Tensor],
) -> torch.Tensor:
    """The tensor that a description stands for, on the CPU, with the shape and dtype of ``like``.

    ``read`` gives a source tensor by key. A random tensor depends on the seed and its own key
    alone, so neither the order of work nor other tensors change it.
    """
    match value:
        case Copied(source):
            return read(source).detach().to("cpu", like.dtype, copy=True)
        case Averaged(sources):
            total = torch.zeros(like.shape, dtype=torch.float64)
            for source in sources:
                total += read(source).detach().to("cpu", torch.float64)
            return (total / len(sources)).to(like.dtype)
        case Constant(number):
            return torch.full(like.shape, number, dtype=like.dtype)
        case Normal(std):
            # numpy, because torch's normal numbers differ between kinds of processors.
            generator = np.random.Generator(np.random.PCG64(derive_seed(seed, key)))
            numbers = generator.standard_normal(tuple(like.shape), dtype=np.float32)
            return (torch.from_numpy(numbers) * std).to(like.dtype)


def derive_seed(seed: int, purpose: str) -> int:
    """A seed of its own for one purpose: 63 bits of a digest.

    >>> derive_seed(0, "a") == derive_seed(0, "b")
    False
    """
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
