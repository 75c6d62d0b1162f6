"""The table of adapters: the plan's ``adapter.type`` -> how to build one beside a Linear."""

from collections.abc import Callable, Mapping
from typing import Final

from torch import nn

from scalenet_cli.adapters.bottleneck import BottleneckAdapter
from scalenet_cli.plan.schema import LoraPlan, ParallelPlan

Build = Callable[[nn.Linear, ParallelPlan | LoraPlan], BottleneckAdapter]


def _parallel(core: nn.Linear, plan: ParallelPlan | LoraPlan) -> BottleneckAdapter:
    assert isinstance(plan, ParallelPlan)
    return BottleneckAdapter(core, plan.dim, plan.activation)


def _lora(core: nn.Linear, plan: ParallelPlan | LoraPlan) -> BottleneckAdapter:
    return BottleneckAdapter(core, plan.dim, None)


ADAPTERS: Final[Mapping[str, Build]] = {"parallel": _parallel, "lora": _lora}
