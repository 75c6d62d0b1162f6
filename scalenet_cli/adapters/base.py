"""What every adapter has to be, and what a kind of adapter says about itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn


@dataclass(frozen=True, slots=True)
class Constant:
    """One number everywhere."""

    value: float


@dataclass(frozen=True, slots=True)
class Normal:
    """Gaussian around 0."""

    std: float


@dataclass(frozen=True, slots=True)
class CannotBeFolded:
    """Why no weight can take an adapter in: ``reason`` continues "the adapter of PATH ..."."""

    reason: str
    hint: str


@dataclass(frozen=True, slots=True)
class Site:
    """What an adapter sits beside: a tied Linear, or the whole MLP or attention of an instance."""

    module: nn.Module
    in_features: int
    out_features: int
    dtype: torch.dtype


class Adapter(nn.Module):
    """Computes an instance's adjustment, which is added to the output of what it sits beside.

    A kind of adapter defines ``forward``, the adjustment alone, ``initial_values`` and ``fold``.
    ``add_to`` and ``beside`` give sums with it; a kind may compute them for less, where nobody can
    notice that its modules were not called.

    Parameters are made on the meta device. The module that the adapter sits beside is none of its
    submodules.

    Shapes:
        x_BNI -> (B, N, O).
    """

    def initial_values(self) -> Mapping[str, Constant | Normal]:
        """What each parameter starts as, by its key; a fresh adjustment has to be exactly zero."""
        raise NotImplementedError

    def fold(self) -> torch.Tensor | CannotBeFolded:
        """What the weight of the Linear has to be raised by, in float64: (O, I); or why none is."""
        raise NotImplementedError

    def weight_norm(self) -> float | None:
        """The Frobenius norm of the linear map that is added; None where there is no such map.

        What an activation inside does is not counted.
        """
        return None

    def add_to(self, y_BNO: torch.Tensor, x_BNI: torch.Tensor) -> torch.Tensor:
        """``y_BNO + self(x_BNI)``; the inputs are not modified."""
        adjustment_BNO: torch.Tensor = self(x_BNI)
        return y_BNO + adjustment_BNO

    def beside(self, core: nn.Linear, x_BNI: torch.Tensor) -> torch.Tensor:
        """``core(x_BNI) + self(x_BNI)``."""
        return self.add_to(core(x_BNI), x_BNI)


@dataclass(frozen=True, slots=True)
class AdapterKind:
    """An entry of ADAPTERS.

    Attributes:
        sits_beside: ``linear``: one adapter for each Linear that ``adapter.targets`` means;
            ``module``: one for the whole MLP, or the whole attention.
        build: makes one adapter; gets the entry of ADAPTER_PLANS that goes with the kind, filled.
    """

    sits_beside: Literal["linear", "module"]
    build: Callable[[Site, Any], Adapter]


def linear_site(core: nn.Linear) -> Site:
    """The place beside a Linear."""
    return Site(core, core.in_features, core.out_features, core.weight.dtype)
