"""The types that a model's tensors have while it is trained."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


@torch.no_grad()
def set_types(model: nn.Module, autocast: torch.dtype | None) -> None:
    """Everything in float32, but frozen tensors of Linear layers as autocast computes with them.

    Autocast would round such a tensor at each use, and autograd keep the rounded copy for the
    backward pass: one per use of a tied weight. Rounded once, here, it gives the same bits in half
    the memory. What an embedding returns is not rounded; so a frozen one stays narrow only if it is
    stored so, and what it returns is widened. Whatever is trained is in float32.

    Args:
        model: with ``requires_grad`` as it will be; changed in place, ties are kept.
        autocast: the type of autocast; None where there is none.
    """
    for buffer in model.buffers():
        if buffer.is_floating_point():
            buffer.data = buffer.float()
    embedded = _parameters_of(model, lambda module: type(module) is nn.Embedding)
    others = _parameters_of(model, lambda module: type(module) not in (nn.Embedding, nn.Linear))
    for parameter in model.parameters():
        lossless = id(parameter) not in embedded or parameter.dtype == autocast
        narrow = not parameter.requires_grad and id(parameter) not in others and lossless
        if parameter.is_floating_point():
            parameter.data = parameter.to(autocast if narrow and autocast else torch.float32)
    for module in model.modules():
        if type(module) is nn.Embedding and module.weight.dtype != torch.float32:
            module.register_forward_hook(_widen)


def _parameters_of(model: nn.Module, wanted: Callable[[nn.Module], bool]) -> set[int]:
    """Ids of the parameters that modules of a kind hold themselves."""
    chosen = (module for module in model.modules() if wanted(module))
    return {id(parameter) for module in chosen for parameter in module.parameters(recurse=False)}


def _widen(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()
