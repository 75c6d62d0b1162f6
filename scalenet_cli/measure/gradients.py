"""Gradient norms of tied tensors, and what each instance adds to them."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, final

import torch
from torch import nn

from scalenet_cli.families.base import Family
from scalenet_cli.measure.model_outputs import (
    ExecutedBlock,
    Samples,
    Score,
    answer,
    exact,
    executed_blocks,
)
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery import group_parameters

# Gradients that are held at a time; a model that has more of them takes several passes.
MAX_GRADIENT_BYTES: Final = 4 * 2**30
Tick = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class InstanceGradient:
    """What one instance alone gives to the gradient of tensors that it may share.

    ``cosine`` is between this part and the sum of all; NaN where either is zero.
    """

    block: ExecutedBlock
    norm: float
    cosine: float


@final
@dataclass(frozen=True, slots=True)
class TiedGradient:
    """The gradient of one block's tied tensors, and its parts; they add up to it as vectors."""

    norm: float
    instances: tuple[InstanceGradient, ...]


def measure_gradients(
    model: nn.Module,
    family: Family,
    layout: Layout,
    batches: Sequence[Samples],
    device: torch.device,
    *,
    max_bytes: int = MAX_GRADIENT_BYTES,
    tick: Tick | None = None,
) -> tuple[TiedGradient, ...]:
    """The l2 norm of the gradient of the mean loss over all targets, per set of tied tensors.

    A set is what instances of one source block share: weights and biases of attention and MLP and,
    where a family has them, layer scales and bias tables; no norms, adapters, gates. Where a plan
    copies weights instead, every instance is a set of its own.

    The model stays as it is: the pass runs on a second structure around the very same memory, in
    which every instance has Parameters of its own, so that autograd keeps their gradients apart.
    Memory beyond the forward pass is one gradient per instance, in several passes over the samples
    where that is more than ``max_bytes``.

    Source:
        the gradient norms per layer of ScaleNet (arXiv:2510.18431), over a batch of 256 there.
    """
    twin = separate(model, family)
    sets = _tied_sets(model, twin, family, layout)
    chunks = list(_chunks(sets, max_bytes))
    found: list[TiedGradient] = []
    for order, chunk in enumerate(chunks):
        total = Score()
        with _watched([p for one in chunk for part in one.parts for p in part]):
            for done, batch in enumerate(batches, start=1):
                loss, counted = answer(twin, batch.to(device))
                torch.autograd.backward([loss])
                total += counted
                if tick is not None:
                    tick(order * len(batches) + done, len(chunks) * len(batches))
            found += [_summed(one, total.num_targets) for one in chunk]
    return tuple(found)


@contextmanager
def _watched(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Autograd keeps the gradients of these; afterwards they have none."""
    for parameter in parameters:
        parameter.requires_grad_(True)
    yield
    for parameter in parameters:
        parameter.requires_grad_(False)
        parameter.grad = None


def separate(model: nn.Module, family: Family) -> nn.Module:
    """A structure of its own around the same memory, with Parameters per instance, all frozen."""
    twin = _around_same_memory(model, ())
    shared = family.shared_objects(twin)
    for stage in family.stages(twin):
        container = twin.get_submodule(stage.path)
        for name, block in list(container.named_children()):
            container.set_submodule(name, _around_same_memory(block, shared))
    return twin


def _around_same_memory(module: nn.Module, shared: Sequence[object]) -> nn.Module:
    memo: dict[int, object] = {id(item): item for item in shared}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False)
    return copy.deepcopy(module, memo)


@dataclass(frozen=True, slots=True)
class _TiedSet:
    """Blocks that share tensors; ``parts`` has, for each of them, its own Parameter of each."""

    blocks: tuple[ExecutedBlock, ...]
    parts: tuple[tuple[nn.Parameter, ...], ...]

    @property
    def num_bytes(self) -> int:
        return sum(p.numel() * p.element_size() for part in self.parts for p in part)


def _tied_sets(
    model: nn.Module, twin: nn.Module, family: Family, layout: Layout
) -> tuple[_TiedSet, ...]:
    groups = group_parameters(twin, family)
    own = dict(twin.named_parameters())
    originals = dict(model.named_parameters(remove_duplicate=False))
    members: dict[tuple[int, ...], list[tuple[ExecutedBlock, tuple[nn.Parameter, ...]]]] = {}
    for block in executed_blocks(model, layout):
        keys = _shared_keys(block, groups)
        identity = tuple(id(originals[key]) for key in keys)
        members.setdefault(identity, []).append((block, tuple(own[key] for key in keys)))
    return tuple(
        _TiedSet(tuple(block for block, _ in one), tuple(part for _, part in one))
        for one in members.values()
    )


def _shared_keys(block: ExecutedBlock, groups: Mapping[str, str]) -> list[str]:
    """Keys of a block's weights, in the order of the block."""
    keys = (f"{block.path}.{key}" for key, _ in block.module.named_parameters())
    return [key for key in keys if groups[key] == "shared"]


def _chunks(sets: Sequence[_TiedSet], max_bytes: int) -> Iterator[list[_TiedSet]]:
    chunk: list[_TiedSet] = []
    for one in sets:
        if chunk and sum(other.num_bytes for other in (*chunk, one)) > max_bytes:
            yield chunk
            chunk = []
        chunk.append(one)
    yield chunk


def _summed(tied: _TiedSet, num_targets: int) -> TiedGradient:
    """Norms and products tensor by tensor, so that no second gradient is ever in memory."""
    num_parts = len(tied.parts)
    squares, products, square = [0.0] * num_parts, [0.0] * num_parts, 0.0
    for uses in zip(*tied.parts, strict=True):
        grads = [exact(p.grad if p.grad is not None else torch.zeros_like(p)) for p in uses]
        total = torch.stack(grads).sum(dim=0)
        square += float(total.square().sum())
        for order, grad in enumerate(grads):
            squares[order] += float(grad.square().sum())
            products[order] += float((grad * total).sum())
    parts = tuple(
        InstanceGradient(block, own**0.5 / num_targets, _cosine(product, own, square))
        for block, own, product in zip(tied.blocks, squares, products, strict=True)
    )
    return TiedGradient(square**0.5 / num_targets, parts)


def _cosine(product: float, one: float, other: float) -> float:
    return product / (one * other) ** 0.5 if one > 0 and other > 0 else float("nan")
