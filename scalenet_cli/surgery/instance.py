"""What one instance executes in the place of a tied core: the core plus what is its own."""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn

from scalenet_cli.adapters.base import Adapter
from scalenet_cli.families.base import Anatomy, BlockDescription


@final
class AdjustedLinear(nn.Module):
    """Computes ``gate * core(x) + adjustment(x)``.

    The core is a Linear that other instances share; gate and adapter belong to this instance. At
    gate 1 and adapter 0 this is the core, bit for bit.

    Shapes:
        x is (..., in_features); gate is (out_features,).
    """

    def __init__(
        self, core: nn.Linear, adapter: nn.Module | None, gate: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.core = core
        self.adapter = adapter
        self.gate = gate

    @property
    def in_features(self) -> int:
        """Of the core."""
        return self.core.in_features

    @property
    def out_features(self) -> int:
        """Of the core."""
        return self.core.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """See the class."""
        if self.gate is None and isinstance(self.adapter, Adapter):
            return self.adapter.beside(self.core, x)
        y: torch.Tensor = self.core(x)
        if self.gate is not None:
            y = self.gate * y
        return _adjust(y, self.adapter, x)


@final
class AdjustedModule(nn.Module):
    """Computes ``core(...) + adapter(x)``, where the core is a whole MLP or attention.

    x is the first parameter of the core's ``forward``. Where the core answers a tuple, as the
    attention of a decoder does, the adjustment belongs to the first part. Whatever else the core
    offers stays at ``.core``.
    """

    def __init__(self, core: nn.Module, adapter: nn.Module | None) -> None:
        super().__init__()
        self.core = core
        self.adapter = adapter
        self._first = next(iter(inspect.signature(core.forward).parameters))

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """See the class. What the core takes is its own affair, so all of it is passed on."""
        output = self.core(*inputs, **named)
        if self.adapter is None:
            return output
        x = inputs[0] if inputs else named[self._first]
        if isinstance(output, tuple):
            return (_adjust(output[0], self.adapter, x), *output[1:])
        return _adjust(output, self.adapter, x)


def _adjust(y: torch.Tensor, adapter: nn.Module | None, x: torch.Tensor) -> torch.Tensor:
    if isinstance(adapter, Adapter):
        return adapter.add_to(y, x)
    # A user's module in the place of ours is called like any other.
    return y if adapter is None else y + adapter(x)


def adjusted_modules(block: nn.Module) -> dict[str, AdjustedModule]:
    """Path inside the block -> wrapper of a whole module."""
    found = block.named_modules()
    return {path: module for path, module in found if isinstance(module, AdjustedModule)}


def block_anatomy(block: nn.Module, family: BlockDescription) -> Anatomy:
    """The parts of a block of a scaled model, under the names that they had in its source."""
    with _unwrapped(block):
        return family.anatomy(block)


@contextmanager
def _unwrapped(block: nn.Module) -> Iterator[None]:
    """Families know nothing of wrappers, so whole modules are in their own places meanwhile."""
    wrappers = adjusted_modules(block)
    try:
        for path, wrapper in wrappers.items():
            block.set_submodule(path, wrapper.core)
        yield
    finally:
        for path, wrapper in wrappers.items():
            block.set_submodule(path, wrapper)
