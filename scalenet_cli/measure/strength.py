"""How far the tensors that new blocks own have come from doing nothing."""

from typing import NamedTuple

import torch
from torch import nn

from scalenet_cli.adapters.base import Adapter
from scalenet_cli.measure.model_outputs import executed_blocks
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.instance import AdjustedLinear


class Strength(NamedTuple):
    """Of all new blocks of a model; None where they have no such tensors.

    Attributes:
        gate: mean absolute gate.
        adapter: mean over adapters beside Linears of the Frobenius norm of the map that each adds,
            as a share of that of the weight beside it. Activations inside are not counted.
    """

    gate: float | None
    adapter: float | None


@torch.no_grad()
def strength_of_new_blocks(model: nn.Module, layout: Layout) -> Strength:
    """What the gates and adapters of new blocks amount to."""
    gates: list[torch.Tensor] = []
    ratios: list[float] = []
    for block in executed_blocks(model, layout):
        if block.slot.ordinal == 0:
            continue
        for module in block.module.modules():
            if not isinstance(module, AdjustedLinear):
                continue
            if module.gate is not None:
                gates.append(module.gate.double().abs())
            norm = module.adapter.weight_norm() if isinstance(module.adapter, Adapter) else None
            if norm is not None:
                weight = float(torch.linalg.vector_norm(module.core.weight.float()))
                ratios.append(norm / weight if weight else 0.0)
    return Strength(
        float(torch.cat(gates).mean()) if gates else None,
        sum(ratios) / len(ratios) if ratios else None,
    )
