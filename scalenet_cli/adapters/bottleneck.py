"""Adapters of two thin Linears beside a tied one: the paper's parallel adapter, and LoRA."""

# Shape legend: B batch, N tokens, I in features, O out features, D adapter dim.

from collections.abc import Mapping
from typing import Final, final

import torch
from torch import nn

from scalenet_cli.adapters.activations import find_activation
from scalenet_cli.adapters.base import (
    Adapter,
    AdapterKind,
    CannotBeFolded,
    Constant,
    Normal,
    Site,
)
from scalenet_cli.adapters.calls import PLAIN_TENSORS, is_plain_linear, runs_only_forward
from scalenet_cli.adapters.fused import can_fuse, fused_linear
from scalenet_cli.errors import AdapterTooWide
from scalenet_cli.plan.schema import LoraPlan, ParallelPlan


@final
class BottleneckAdapter(Adapter):
    """Computes ``up(activation(down(x)))``, added to the output of one tied Linear.

    Without an activation this is LoRA at scale 1. ``up`` starts at zero: a fresh instance computes
    exactly what its source block computes, and only ``up`` receives a gradient in the first step.

    Shapes:
        x_BNI -> (B, N, O); down.weight is (D, I), up.weight is (O, D). No biases, no scale: the
        published parameter counts match only so.
    Units:
        D*(I + O) parameters; 2*B*N*D*(I + O) FLOPs (1 multiply-add = 2 FLOPs; the activation is not
        counted).

    Raises:
        AdapterTooWide: D >= min(I, O), which is no bottleneck any more.
    Source:
        Eq. 9 of ScaleNet (arXiv:2510.18431), after He et al. (arXiv:2110.04366); LoRA after Hu et
        al. (arXiv:2106.09685).
    """

    def __init__(self, core: nn.Linear, dim: int, activation: str | None) -> None:
        super().__init__()
        narrow = min(core.in_features, core.out_features)
        if dim >= narrow:
            raise AdapterTooWide(
                f"adapter.dim is {dim}, but a Linear of {core.in_features} to {core.out_features} "
                f"features has room for at most {narrow - 1}",
                hint="lower adapter.dim, or leave this Linear out of adapter.targets",
                field=("adapter", "dim"),
            )
        like = {"device": "meta", "dtype": core.weight.dtype}
        self.activation = activation
        self.down = nn.Linear(core.in_features, dim, bias=False, **like)
        self.up = nn.Linear(dim, core.out_features, bias=False, **like)

    def initial_values(self) -> Mapping[str, Constant | Normal]:
        """See Adapter."""
        return {
            "down.weight": Normal(self.down.in_features**-0.5),
            "up.weight": Constant(0.0),
        }

    def fold(self) -> torch.Tensor | CannotBeFolded:
        """See Adapter. Only without an activation is it a linear map."""
        if self.activation is not None:
            return CannotBeFolded(
                "has an activation, so no weight computes the same",
                "keep the adapter, or expand with `adapter: {type: lora}`",
            )
        return self.up.weight.double() @ self.down.weight.double()

    def weight_norm(self) -> float:
        """See Adapter."""
        up, down = self.up.weight.detach().double(), self.down.weight.detach().double()
        # The norm of the product, from two matrices as small as the adapter's dim.
        squared = float(((up.T @ up) * (down @ down.T)).sum())
        return float(max(squared, 0.0) ** 0.5)

    def forward(self, x_BNI: torch.Tensor) -> torch.Tensor:
        """The adjustment, (B, N, O)."""
        h_BND = find_activation(self.activation).forward(self.down(x_BNI))
        adjustment_BNO: torch.Tensor = self.up(h_BND)
        return adjustment_BNO

    def add_to(self, y_BNO: torch.Tensor, x_BNI: torch.Tensor) -> torch.Tensor:
        """``y_BNO + self(x_BNI)``, without a second tensor of the size of y where that is the same.

        It is the same where nothing around the adapter's calls could notice.
        """
        if not (
            type(x_BNI) in PLAIN_TENSORS
            and runs_only_forward(self, BottleneckAdapter)
            and is_plain_linear(self.up)
        ):
            return super().add_to(y_BNO, x_BNI)
        h_BND = find_activation(self.activation).forward(self.down(x_BNI))
        flat = torch.addmm(y_BNO.flatten(0, -2), h_BND.flatten(0, -2), self.up.weight.t())
        return flat.view_as(y_BNO)

    def beside(self, core: nn.Linear, x_BNI: torch.Tensor) -> torch.Tensor:
        """``core(x_BNI) + self(x_BNI)``; in training as one step of autograd, likewise."""
        if runs_only_forward(self, BottleneckAdapter) and can_fuse(x_BNI, core, self.down, self.up):
            return fused_linear(x_BNI, core, down=self.down, up=self.up, activation=self.activation)
        return self.add_to(core(x_BNI), x_BNI)

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        return f"activation={self.activation}"


def _build_parallel(site: Site, plan: ParallelPlan) -> BottleneckAdapter:
    assert isinstance(site.module, nn.Linear)
    return BottleneckAdapter(site.module, plan.dim, plan.activation)


def _build_lora(site: Site, plan: LoraPlan) -> BottleneckAdapter:
    assert isinstance(site.module, nn.Linear)
    return BottleneckAdapter(site.module, plan.dim, None)


PARALLEL: Final = AdapterKind("linear", _build_parallel)
LORA: Final = AdapterKind("linear", _build_lora)
