"""What a model is worth without one block instance, or without that instance's adapters."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from scalenet_cli.measure.model_outputs import executed_blocks
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule


@contextmanager
def skipped(block: nn.Module) -> Iterator[None]:
    """The block gives back what it gets, while the context lasts.

    It still runs: its output is replaced, so that whoever calls it finds the block it expects.
    """
    handle = block.register_forward_hook(_give_back)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def without_new_blocks(model: nn.Module, layout: Layout) -> Iterator[None]:
    """Blocks that were added give back what they get, while the context lasts."""
    with ExitStack() as stack:
        for block in executed_blocks(model, layout):
            if block.slot.ordinal > 0:
                stack.enter_context(skipped(block.module))
        yield


def _give_back(_: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    return (inputs[0], *output[1:]) if isinstance(output, tuple) else inputs[0]


def adapted_linears(block: nn.Module) -> tuple[tuple[str, AdjustedLinear], ...]:
    """Path inside the block and module of every Linear with an adapter, in order."""
    return tuple(
        (path, module)
        for path, module in block.named_modules()
        if isinstance(module, AdjustedLinear) and module.adapter is not None
    )


def has_adapters(block: nn.Module) -> bool:
    """An adapter sits beside one of the block's Linears, or beside a whole module of it."""
    return any(wrapper.adapter is not None for wrapper in _wrappers(block))


@contextmanager
def without_adapters(block: nn.Module) -> Iterator[None]:
    """The block runs on its tied weights, norms and gates alone, while the context lasts."""
    taken = [(wrapper, wrapper.adapter) for wrapper in _wrappers(block)]
    try:
        for wrapper, _ in taken:
            wrapper.adapter = None
        yield
    finally:
        for wrapper, adapter in taken:
            wrapper.adapter = adapter


def _wrappers(block: nn.Module) -> list[AdjustedLinear | AdjustedModule]:
    return [one for one in block.modules() if isinstance(one, AdjustedLinear | AdjustedModule)]
