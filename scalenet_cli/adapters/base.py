"""What every adapter has to be."""

from typing import ClassVar

import torch
from torch import nn


class Adapter(nn.Module):
    """Computes an instance's adjustment, which is added to the output of a tied Linear.

    A kind of adapter defines ``forward``, the adjustment alone. ``add_to`` and ``beside`` give sums
    with it; a kind may compute them for less, where nobody can notice that its modules were not
    called.

    Tensors that start at zero are named in ``zero_at_start``, so that a fresh adjustment is
    exactly zero; the others are Gaussian with a standard deviation of ``1 / sqrt(in_features)``.

    Shapes:
        x_BNI -> (B, N, O).
    """

    zero_at_start: ClassVar[tuple[str, ...]]

    def add_to(self, y_BNO: torch.Tensor, x_BNI: torch.Tensor) -> torch.Tensor:
        """``y_BNO + self(x_BNI)``; the inputs are not modified."""
        adjustment_BNO: torch.Tensor = self(x_BNI)
        return y_BNO + adjustment_BNO

    def beside(self, core: nn.Linear, x_BNI: torch.Tensor) -> torch.Tensor:
        """``core(x_BNI) + self(x_BNI)``."""
        return self.add_to(core(x_BNI), x_BNI)
