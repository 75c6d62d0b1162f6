"""A Linear and the adapter beside it as one step of autograd, for training.

Composed of ordinary modules, their sum costs passes over full-size tensors that no arithmetic asks
for: ``addmm`` copies the core's output before it adds to it, and autograd makes one full-size
gradient of x per path and adds the two in a third. Here the thin products go, in place, into what
the core has just made. Calling the modules stays the definition, and is what happens wherever
``can_fuse`` says no.
"""

# Shape legend: M tokens of the whole batch, I in features, O out features, D adapter dim.

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from scalenet_cli.adapters.activations import find_activation
from scalenet_cli.adapters.calls import PLAIN_TENSORS, is_plain_linear


class _FusedLinear(torch.autograd.Function):
    """``linear(x, weight, bias) + linear(activation(linear(x, down)), up)``.

    Saves x once and two thin tensors; no full-size tensor but y and the gradient of x is allocated.
    At ``up = 0`` the sum is the core's output, bit for bit. Can be differentiated twice: every step
    of ``backward`` has a derivative of its own.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        down: torch.Tensor,
        up: torch.Tensor,
        activation: str | None,
    ) -> torch.Tensor:
        """The sum, (..., O) for x of (..., I)."""
        pre_MD = F.linear(x, down).view(-1, down.shape[0])
        h_MD = find_activation(activation).forward(pre_MD)
        y = _sum_of_products(x, weight, bias=bias, h_MD=h_MD, up=up)
        ctx.save_for_backward(x, weight, down, up, pre_MD, h_MD)
        ctx.activation = activation
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Gradients of x, weight, bias, down and up, where they are asked for."""
        x, weight, down, up, pre_MD, h_MD = ctx.saved_tensors
        need_x, need_weight, need_bias, need_down, need_up, _ = ctx.needs_input_grad
        activation = find_activation(ctx.activation)
        g_MO, x_MI = grads[0].reshape(-1, up.shape[0]), x.view(-1, x.shape[-1])
        if torch.is_grad_enabled():
            # For a second derivative: what was saved does not know that it came from x and down.
            pre_MD = F.linear(x_MI, down)
            h_MD = activation.forward(pre_MD)
        grad_MD = activation.backward(g_MO @ up, pre_MD)
        # autograd would compute g.t() @ h, which takes MKL up to twice as long.
        grad_up = (h_MD.t() @ g_MO).t() if need_up else None
        return (
            _add_product(grad_MD @ down, g_MO, weight).view_as(x) if need_x else None,
            g_MO.t() @ x_MI if need_weight else None,
            g_MO.sum(0) if need_bias else None,
            grad_MD.t() @ x_MI if need_down else None,
            grad_up,
            None,
        )


def _sum_of_products(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    h_MD: torch.Tensor,
    up: torch.Tensor,
) -> torch.Tensor:
    """``linear(x, weight, bias) + linear(h, up)``; where ``up`` is 0, the first, bit for bit.

    On a CPU the thin product comes first, with the bias as one more of its columns: it then writes
    y where F.linear would copy the bias to, and the core's product adds to that, as it would to the
    copy. After the core, it would pass over y once more.
    """
    if x.device.type != "cpu":
        y = F.linear(x, weight, bias)
        _add_product(y.view(-1, y.shape[-1]), h_MD, up.t())
        return y
    if bias is not None:
        h_MD = F.pad(h_MD, (0, 1), value=1.0)
        up = torch.cat((up, bias[:, None]), dim=1)
    y_MO = _add_product(F.linear(h_MD, up), x.view(-1, x.shape[-1]), weight.t())
    return y_MO.view(*x.shape[:-1], y_MO.shape[-1])


def _add_product(total: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``total + a @ b``, in the memory of ``total`` unless autograd has to look back on it.

    Not ``addmm_``: it is the same kernel, but counters of FLOPs (torch 2.15) do not know it.
    """
    if torch.is_grad_enabled():
        return torch.addmm(total, a, b)
    return torch.addmm(total, a, b, out=total)


def fused_linear(
    x: torch.Tensor, core: nn.Linear, down: nn.Linear, up: nn.Linear, activation: str | None
) -> torch.Tensor:
    """``core(x) + up(activation(down(x)))``, where ``can_fuse`` allows it.

    Autocast casts every operand once, here, and not once per product; a gradient comes back in its
    operand's own dtype.
    """
    bias: torch.Tensor | None = core.bias
    tensors: tuple[torch.Tensor | None, ...] = (x, core.weight, bias, down.weight, up.weight)
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        tensors = tuple(t if t is None else t.to(dtype) for t in tensors)
    return cast(torch.Tensor, _FusedLinear.apply(*tensors, activation))


def can_fuse(x: torch.Tensor, core: nn.Linear, down: nn.Linear, up: nn.Linear) -> bool:
    """Whether computing without calling the three modules is the same as calling them.

    No where somebody may listen to or replace a call (see :func:`runs_only_forward`), where tensors
    are more than tensors (DTensor, FakeTensor, functorch), where the compiler places buffers itself
    or a tracer cannot follow, and where nothing is gained: without gradients, or with a frozen
    adapter, whose x autograd would not save.
    """
    return (
        torch.is_grad_enabled()
        and all(is_plain_linear(linear) for linear in (core, down, up))
        and down.weight.requires_grad
        and type(x) in PLAIN_TENSORS
        and x.dim() > 1
        and x.is_contiguous()
        # Autocast leaves float64 alone.
        and not (x.dtype == torch.float64 and torch.is_autocast_enabled(x.device.type))
        and not torch.compiler.is_compiling()
        and torch._C._get_tracing_state() is None
        and not torch._C._are_functorch_transforms_active()
    )
