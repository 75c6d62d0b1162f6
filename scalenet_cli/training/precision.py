"""The types that a model's tensors have while it is trained."""

import torch
from torch import nn


@torch.no_grad()
def set_types(model: nn.Module, autocast: torch.dtype | None) -> None:
    """Everything in float32, but frozen tensors of Linear layers as autocast computes with them.

    Autocast would round such a tensor at each use, and autograd keep the rounded copy for the
    backward pass: one per use of a tied weight. Rounded once, here, it gives the same bits in half
    the memory. Embeddings stay in float32: what they return is not rounded. So does the head that
    is one of them, and whatever is trained.

    Args:
        model: with ``requires_grad`` as it will be; changed in place, ties are kept.
        autocast: the type of autocast; None where there is none.
    """
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.float()
    elsewhere = {
        id(parameter)
        for module in model.modules()
        if type(module) is not nn.Linear
        for parameter in module.parameters(recurse=False)
    }
    for parameter in model.parameters():
        rounded = not parameter.requires_grad and id(parameter) not in elsewhere
        wanted = autocast if rounded and autocast is not None else torch.float32
        if parameter.is_floating_point():
            parameter.data = parameter.to(wanted)
