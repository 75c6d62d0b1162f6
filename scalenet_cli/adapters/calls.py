"""Whether calling a module runs its class's own ``forward`` and nothing else."""

import torch
from torch import nn
from torch.nn.modules import module as every_module

# Subclasses of these carry more than numbers: DTensor, FakeTensor, quantised weights.
PLAIN_TENSORS = (torch.Tensor, nn.Parameter)


def runs_only_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether ``module(x)`` is ``kind.forward(module, x)``, so that the call can be left out.

    Not so with hooks (of the module or of all modules), a ``forward`` of the instance's own (as
    Accelerate's offloading sets), a subclass (as parametrisations and PEFT make), or a call that
    was compiled.
    """
    return (
        type(module) is kind
        and "forward" not in module.__dict__
        and module._compiled_call_impl is None
        and not (module._forward_hooks or module._forward_pre_hooks)
        and not (module._backward_hooks or module._backward_pre_hooks)
        and not (every_module._global_forward_hooks or every_module._global_forward_pre_hooks)
        and not (every_module._global_backward_hooks or every_module._global_backward_pre_hooks)
    )


def is_plain_linear(linear: nn.Module) -> bool:
    """An ``nn.Linear`` as PyTorch makes it: its product can be computed from its weight."""
    return runs_only_forward(linear, nn.Linear) and type(linear.weight) in PLAIN_TENSORS
