"""How far the tensors that new blocks own have come from doing nothing."""

from typing import NamedTuple

import torch
from torch import nn

from scalenet_cli.adapters.bottleneck import BottleneckAdapter
from scalenet_cli.measure.model_outputs import executed_blocks
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.instance import AdjustedLinear


class Strength(NamedTuple):
    """Of all new blocks of a model; None where they have no such tensors.

    Attributes:
        gate: mean absolute gate.
        adapter: mean over adapters of the Frobenius norm of ``up @ down``, as a share of that of
            the weight beside it. What an activation between them does is not counted.
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
            if isinstance(module.adapter, BottleneckAdapter):
                up, down = module.adapter.up.weight.double(), module.adapter.down.weight.double()
                # The norm of the product, from two matrices as small as the adapter's dim.
                squared = float(((up.T @ up) * (down @ down.T)).sum())
                weight = float(torch.linalg.vector_norm(module.core.weight.float()))
                ratios.append(max(squared, 0.0) ** 0.5 / weight if weight else 0.0)
    return Strength(
        float(torch.cat(gates).mean()) if gates else None,
        sum(ratios) / len(ratios) if ratios else None,
    )
