"""The base model inside of a scaled one: what a pretrained block computes, executed once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from scalenet_cli.measure.ablation import without_new_blocks
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule
from scalenet_cli.training.training_task import EvaluationMode

T = TypeVar("T")


@contextmanager
def as_base_model(model: nn.Module, layout: Layout) -> Iterator[None]:
    """The model computes what its source computes, in evaluation mode, while the context lasts.

    Added blocks give back what they get, and the others run without adapters and gates. Exact as
    long as the tensors of the base are frozen; norms or weights that are trained are the student's
    as well, and the base moves along with them.
    """
    with ExitStack() as stack:
        stack.enter_context(EvaluationMode(model))
        stack.enter_context(without_new_blocks(model, layout))
        stack.enter_context(_without_adjustments(model))
        yield


def base_outputs(model: nn.Module, layout: Layout, call: Callable[[], T]) -> T:
    """What ``call`` returns, which runs the model, when it runs as its base: without gradients."""
    with torch.no_grad(), as_base_model(model, layout):
        return call()


@contextmanager
def _without_adjustments(model: nn.Module) -> Iterator[None]:
    taken: list[tuple[Any, Any, Any]] = [
        (module, module.adapter, module.gate if isinstance(module, AdjustedLinear) else None)
        for module in model.modules()
        if isinstance(module, AdjustedLinear | AdjustedModule)
    ]
    try:
        for module, _, gate in taken:
            module.adapter = None
            if gate is not None:
                module.gate = None
        yield
    finally:
        for module, adapter, gate in taken:
            module.adapter = adapter
            if gate is not None:
                module.gate = gate
