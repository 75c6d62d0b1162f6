"""Work per instance and in total, counted by PyTorch on tensors without data."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scalenet_cli.bundle.reports import FlopReport, InstanceFlops
from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout


def count_flops(model: nn.Module, layout: Layout, family: Family, size: int) -> FlopReport:
    """FLOPs of one forward pass over one sample, with tensors without data in place of the model's.

    FlopCounterMode's total is right for tied models, but it names modules by their first path, so
    it books all instances on one. Instances are told apart here by what the total is before and
    after each block runs.

    Raises:
        OptionError: the model cannot run at this input size.
    """
    counter = FlopCounterMode(display=False)
    spent: dict[str, int] = {}
    hooks = []
    for stage, slot in layout:
        path = f"{stage.path}.{slot.position}"
        hooks += _watch(model.get_submodule(path), path, counter, spent)
    try:
        # Attention is written out as matrix products: not every version of PyTorch counts every
        # fused kernel, and written out it is the same work.
        with torch.no_grad(), FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
            inputs = family.example_inputs(model, size, "cpu")
            tensors = _without_data(model)
            with counter:
                functional_call(model, tensors, kwargs=inputs)
    except (AssertionError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"the model does not run at input size {size}: {error}",
            hint="give a size that the patches and windows divide",
        ) from None
    finally:
        for hook in hooks:
            hook.remove()
    return _report(layout, spent, counter.get_total_flops(), size, "input_ids" in inputs)


def _without_data(model: nn.Module) -> dict[str, torch.Tensor]:
    """Stand-ins for parameters and buffers, in one float type: work does not depend on types.

    Called under FakeTensorMode, so nothing is allocated.
    """
    return {
        key: torch.empty(
            tensor.shape, dtype=torch.float32 if tensor.is_floating_point() else tensor.dtype
        )
        for key, tensor in (*model.named_parameters(), *model.named_buffers())
    }


def _watch(
    block: nn.Module, path: str, counter: FlopCounterMode, spent: dict[str, int]
) -> list[Any]:
    def before(*_: object) -> None:
        spent[path] = -counter.get_total_flops()

    def after(*_: object) -> None:
        spent[path] += counter.get_total_flops()

    started: Callable[..., None] = before
    ended: Callable[..., None] = after
    return [block.register_forward_pre_hook(started), block.register_forward_hook(ended)]


def _report(
    layout: Layout, spent: dict[str, int], total: int, size: int, tokens: bool
) -> FlopReport:
    rows = tuple(
        InstanceFlops(
            stage=index,
            position=slot.position,
            source=slot.source,
            ordinal=slot.ordinal,
            macs=spent[f"{stage.path}.{slot.position}"] // 2,
            flops=spent[f"{stage.path}.{slot.position}"],
        )
        for index, stage in enumerate(layout.stages)
        for slot in stage.instances
    )
    outside = total - sum(row.flops for row in rows)
    return FlopReport(
        input_size=size,
        unit="tokens" if tokens else "pixels",
        macs=total // 2,
        flops=total,
        outside_macs=outside // 2,
        outside_flops=outside,
        instances=rows,
    )
