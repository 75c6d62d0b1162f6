"""The base model inside of a scaled one: what a pretrained block computes, executed once."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar

import torch
from torch import nn

from scalenet_cli.measure.ablation import without_new_blocks
from scalenet_cli.plan.layout import Layout
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule
from scalenet_cli.training.training_task import EvaluationMode

T = TypeVar("T")


@contextmanager
def as_base_model(model: nn.Module, layout: Layout, *, compiled: bool = False) -> Iterator[None]:
    """The model computes what its source computes, in evaluation mode, while the context lasts.

    Added blocks give back what they get, and the others run without adapters and gates. Exact as
    long as the tensors of the base are frozen; norms or weights that are trained are the student's
    as well, and the base moves along with them. ``compiled`` says that blocks are.
    """
    with ExitStack() as stack:
        if compiled:  # new hooks would compile the blocks again
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(EvaluationMode(model))
        stack.enter_context(without_new_blocks(model, layout))
        stack.enter_context(_cores_alone(model))
        yield


def base_outputs(
    model: nn.Module, layout: Layout, call: Callable[[], T], *, compiled: bool = False
) -> T:
    """What ``call`` returns, which runs the model, when it runs as its base: without gradients."""
    with torch.no_grad(), as_base_model(model, layout, compiled=compiled):
        outputs = call()
    # Autocast would hand its copies of the weights, made without gradients, to the student.
    torch.clear_autocast_cache()
    return outputs


@contextmanager
def _cores_alone(model: nn.Module) -> Iterator[None]:
    """Wrappers call their cores. Their parameters stay in place, where FSDP looks for them."""
    adjusted = [m for m in model.modules() if isinstance(m, AdjustedLinear | AdjustedModule)]
    try:
        for module in adjusted:
            vars(module)["forward"] = module.core.__call__
        yield
    finally:
        for module in adjusted:
            vars(module).pop("forward", None)
