"""The activations of adapters, with their gradients as plain functions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Activation:
    """A function of one tensor, and what autograd would run for its gradient.

    Attributes:
        forward: pre-activation -> activation.
        backward: (gradient of the activation, pre-activation) -> gradient of the pre-activation;
            has a derivative itself.
    """

    forward: Callable[[torch.Tensor], torch.Tensor]
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _relu_backward(grad: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    answer: torch.Tensor = torch.ops.aten.threshold_backward(grad, pre, 0)
    return answer


def _silu_backward(grad: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    # Written out: autograd has no derivative for aten.silu_backward (torch 2.15).
    gate = torch.sigmoid(pre)
    return grad * gate * (1 + pre * (1 - gate))


def _unchanged(grad: torch.Tensor, pre: torch.Tensor) -> torch.Tensor:
    return grad


NO_ACTIVATION: Final = Activation(lambda pre: pre, _unchanged)
ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "gelu": Activation(F.gelu, torch.ops.aten.gelu_backward),
    "relu": Activation(F.relu, _relu_backward),
    "silu": Activation(F.silu, _silu_backward),
}


def find_activation(name: str | None) -> Activation:
    """The activation of that name; None is LoRA's, which changes nothing."""
    return NO_ACTIVATION if name is None else ACTIVATIONS[name]
