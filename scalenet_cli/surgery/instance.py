"""A Linear as one instance executes it: the tied core plus what is the instance's own."""

from typing import TYPE_CHECKING, final

import torch
from torch import nn

if TYPE_CHECKING:
    from scalenet_cli.adapters.bottleneck import BottleneckAdapter


@final
class AdjustedLinear(nn.Module):
    """Computes ``gate * core(x) + adjustment(x)``.

    The core is a Linear that other instances share; gate and adapter belong to this instance. At
    gate 1 and adapter 0 this is the core, bit for bit.

    Shapes:
        x is (..., in_features); gate is (out_features,).
    """

    def __init__(
        self, core: nn.Linear, adapter: "BottleneckAdapter | None", gate: nn.Parameter | None
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
        if self.adapter is not None and self.gate is None:
            return self.adapter.beside(self.core, x)
        y: torch.Tensor = self.core(x)
        if self.gate is not None:
            y = self.gate * y
        return y if self.adapter is None else self.adapter.adjust(y, x)
