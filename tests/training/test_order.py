"""The order of samples: complete, the same everywhere, and resumable at any step."""

from functools import partial
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from scalenet_cli.training.order import StepSampler, epoch_order, rank_share

SEEDS = st.integers(0, 2**40)


@st.composite
def shapes(draw: st.DrawFn) -> dict[str, int]:
    """A run whose batch divides among ranks and micro-batches."""
    ranks, accumulate = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch = ranks * accumulate * draw(st.integers(1, 4))
    return {
        "size": batch * draw(st.integers(1, 4)) + draw(st.integers(0, batch - 1)),
        "batch_size": batch,
        "accumulate": accumulate,
        "num_ranks": ranks,
        "seed": draw(SEEDS),
    }


def sampler(shape: dict[str, int], rank: int, first: int, last: int) -> StepSampler:
    changed: dict[str, Any] = {**shape, "rank": rank, "first_step": first, "last_step": last}
    seed = changed.pop("seed")
    order = partial(epoch_order, shape["size"], seed)
    return StepSampler(order=order, **changed)


@given(size=st.integers(1, 200), seed=SEEDS, epoch=st.integers(0, 50))
def test_epoch_is_a_permutation(size: int, seed: int, epoch: int) -> None:
    assert sorted(epoch_order(size, seed, epoch).tolist()) == list(range(size))


def test_epochs_and_seeds_differ() -> None:
    orders = {tuple(epoch_order(50, seed, epoch).tolist()) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


@given(shape=shapes(), epochs=st.integers(1, 3))
def test_ranks_share_every_global_batch(shape: dict[str, int], epochs: int) -> None:
    steps_per_epoch = shape["size"] // shape["batch_size"]
    last, count = epochs * steps_per_epoch, shape["accumulate"]
    parts = [list(sampler(shape, rank, 0, last)) for rank in range(shape["num_ranks"])]
    alone = list(sampler({**shape, "num_ranks": 1, "accumulate": 1}, 0, 0, last))
    assert len(alone) == last
    for step, whole in enumerate(alone):
        epoch, offset = divmod(step, steps_per_epoch)
        order = epoch_order(shape["size"], shape["seed"], epoch).tolist()
        begin = offset * shape["batch_size"]
        assert whole == [(epoch, index) for index in order[begin : begin + shape["batch_size"]]]
        micros = [micro for part in parts for micro in part[step * count : (step + 1) * count]]
        assert len({len(micro) for micro in micros}) == 1
        assert sorted(place for micro in micros for place in micro) == sorted(whole)


@given(shape=shapes(), data=st.data())
def test_resumed_order_is_the_tail_of_the_whole(shape: dict[str, int], data: st.DataObject) -> None:
    last = 3 * (shape["size"] // shape["batch_size"])
    step = data.draw(st.integers(0, last))
    rank = data.draw(st.integers(0, shape["num_ranks"] - 1))
    whole = sampler(shape, rank, 0, last)
    tail = sampler(shape, rank, step, last)
    assert list(tail) == list(whole)[step * shape["accumulate"] :]
    assert len(tail) == len(list(tail))


@given(size=st.integers(1, 100), ranks=st.integers(1, 9), batch=st.integers(1, 20))
def test_evaluation_counts_every_sample_once(size: int, ranks: int, batch: int) -> None:
    shares = [rank_share(size, ranks, rank, batch) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1  # a sharded model needs all ranks
    assert all(len(part) <= batch for share in shares for part in share)
    seen = sorted(index for share in shares for part in share for index in part)
    assert seen == list(range(size))
