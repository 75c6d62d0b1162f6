"""Finds out why a step cannot be taken: the first thing in it that is not finite."""

import math
from collections.abc import Mapping

import torch
from torch import nn

from scalenet_cli.errors import LossNotFinite

MIN_SCALE = 1.0


def require_finite(
    step: int, loss: float, norm: float, lr: float, trained: Mapping[str, nn.Parameter]
) -> None:
    """A step's loss and gradient are finite.

    Raises:
        LossNotFinite: names the step and what went wrong in it.
    """
    if torch.isfinite(torch.tensor([loss, norm])).all():
        return
    weights = [key for key, p in trained.items() if not bool(torch.isfinite(p.detach()).all())]
    gradients = [
        key
        for key, p in trained.items()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    if weights:
        cause = f"the weights of {weights[0]} are not finite ({len(weights)} tensors)"
    elif gradients and torch.isfinite(torch.tensor(loss)):
        cause = f"the loss is {loss:.4g}, but the gradient of {gradients[0]} is not finite"
    else:
        cause = f"the loss is {loss}"
    raise LossNotFinite.at(
        step,
        f"step {step} diverged at a learning rate of {lr:.3g}: {cause}",
        hint="the last checkpoint is from before; try a lower lr, a longer warm-up, clip_grad, or "
        "bf16 in the place of fp16",
    )


def require_finite_loss(step: int, loss: float) -> None:
    """An evaluation's loss is finite.

    Raises:
        LossNotFinite: it is not.
    """
    if not math.isfinite(loss):
        raise LossNotFinite.at(
            step,
            f"the validation loss after step {step} is {loss}",
            hint="the last checkpoint is from before; try a lower lr or a larger opt_eps"
            if step
            else "the bundle's weights overflow: train with --precision bf16 or fp32, or check it "
            "with `scalenet eval`",
        )


def require_scale(step: int, scale: float) -> None:
    """Fp16 has not overflowed at every scale.

    Raises:
        LossNotFinite: the loss scale has fallen below 1.
    """
    if scale < MIN_SCALE:
        raise LossNotFinite.at(
            step,
            f"step {step}: fp16 overflows at every loss scale down to {scale:g}",
            hint="train with --precision bf16 or fp32",
        )
