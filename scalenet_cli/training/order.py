"""Which sample is used when: a pure function of the seed, so that a run can go on anywhere."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch.utils.data import Sampler

from scalenet_cli.surgery.values import derive_seed

# An epoch and the position of a sample in its split.
Place = tuple[int, int]


def epoch_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """A permutation of ``range(size)``.

    >>> torch.equal(epoch_order(5, 0, 1), epoch_order(5, 0, 1))
    True
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, f"order of epoch {epoch}"))
    return torch.randperm(size, generator=generator)


@final
@dataclass(frozen=True)
class StepSampler(Sampler[list[Place]]):
    """The micro-batches of one rank, from one optimizer step to another, over all epochs.

    ``order`` gives the permutation of an epoch.
    A step takes the next ``batch_size`` samples of the epoch's order, whatever the number of
    ranks; its ``accumulate`` micro-batches are split into one slice per rank. What is left at the
    end of an epoch is dropped.
    """

    size: int
    batch_size: int
    accumulate: int
    num_ranks: int
    rank: int
    order: Callable[[int], torch.Tensor]
    first_step: int
    last_step: int

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps that one pass over the data allows."""
        return self.size // self.batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        known, order = -1, torch.empty(0)
        for step in range(self.first_step, self.last_step):
            epoch, offset = divmod(step, self.steps_per_epoch)
            if epoch != known:
                known, order = epoch, self.order(epoch)
            picked = order[offset * self.batch_size : (offset + 1) * self.batch_size]
            for micro in picked.view(self.accumulate, self.num_ranks, -1)[:, self.rank]:
                yield [(epoch, int(index)) for index in micro]

    def __len__(self) -> int:
        return (self.last_step - self.first_step) * self.accumulate


def rank_share(size: int, num_ranks: int, rank: int, batch_size: int) -> list[list[int]]:
    """The evaluation batches of one rank: every sample is in exactly one rank's.

    Ranks get equally many batches, because a sharded model needs all of them at every forward
    pass; an empty batch is one in which a rank has nothing left.
    """
    own = list(range(rank, size, num_ranks))
    longest = -(-size // num_ranks)
    count = -(-longest // batch_size)
    return [own[at * batch_size : (at + 1) * batch_size] for at in range(count)]
