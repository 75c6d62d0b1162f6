"""What every adapter has to be."""

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn


class Adapter(Protocol):
    """Computes an instance's adjustment and adds it to the output of a tied Linear.

    Tensors that start at zero are named in ``zero_at_start``, so that a fresh adjustment is
    exactly zero; the others are Gaussian with a standard deviation of ``1 / sqrt(in_features)``.
    """

    zero_at_start: tuple[str, ...]

    def adjust(self, y_BNO: "torch.Tensor", x_BNI: "torch.Tensor") -> "torch.Tensor":
        """``y_BNO`` plus the adjustment for ``x_BNI``; the inputs are not modified."""
        ...

    def beside(self, core: "nn.Linear", x_BNI: "torch.Tensor") -> "torch.Tensor":
        """``adjust(core(x), x)``, by whatever means cost least."""
        ...
