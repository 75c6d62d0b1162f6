"""A Linear as one instance executes it: the tied core plus what is the instance's own."""

from typing import final

import torch
from torch import nn

from scalenet_cli.adapters.base import Adapter


@final
class AdjustedLinear(nn.Module):
    """Computes ``gate * core(x) + adjustment(x)``.

    The core is a Linear that other instances share; gate and adapter belong to this instance. At
    gate 1 and adapter 0 this is the core, bit for bit.

    Shapes:
        x is (..., in_features); gate is (out_features,).
    """

    def __init__(self, core: nn.Linear, adapter: Adapter | None, gate: nn.Parameter | None) -> None:
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
        if isinstance(self.adapter, Adapter):
            return self.adapter.add_to(y, x)
        # A user's module in the place of ours is called like any other.
        return y if self.adapter is None else y + self.adapter(x)
