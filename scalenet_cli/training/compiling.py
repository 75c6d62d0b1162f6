"""torch.compile of each block, so that blocks of one kind share their graphs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import torch
from timm.layers import DropPath
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._inductor.exc import InductorError

from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.surgery.instance import block_anatomy

_MANY: Final = 10**6


@final
class TensorDropPath(nn.Module):
    """timm's DropPath with its rate in a tensor.

    A rate that is a Python number is a constant to the compiler: every block would get graphs of
    its own.
    """

    keep: torch.Tensor

    def __init__(self, rate: float, device: torch.device) -> None:
        super().__init__()
        self.register_buffer("keep", torch.tensor(1 - rate, device=device), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drops whole samples; what is kept is scaled up, so that the mean stays."""
        if not self.training:
            return x
        shape = (len(x),) + (1,) * (x.ndim - 1)
        kept = torch.rand(shape, device=x.device) < self.keep
        return x * (kept / self.keep).to(x.dtype)


def compile_blocks(model: nn.Module, family: Family) -> None:
    """Every block is compiled when it first runs: one graph per kind of block and mode.

    See :func:`compiling`.
    """
    stages = [model.get_submodule(stage.path) for stage in family.stages(model)]
    blocks = [block for stage in stages for block in stage.children()]
    if any(isinstance(module, DropPath) for block in blocks for module in block.modules()):
        for block in blocks:
            _put_rates_in_tensors(block, family)
    for block in blocks:
        block.compile()


def _put_rates_in_tensors(block: nn.Module, family: Family) -> None:
    device = next(block.parameters()).device
    for part in block_anatomy(block, family).drop_paths:
        old = block.get_submodule(part)
        rate = float(old.drop_prob) if isinstance(old, DropPath) else 0.0
        block.set_submodule(part, TensorDropPath(rate, device).train(old.training))


@contextmanager
def compiling() -> Iterator[None]:
    """Compiled blocks run as such inside, however many kinds of them there are.

    Raises:
        OptionError: PyTorch cannot compile here.
    """
    # Every drop path rate, and every variant, is a version of one and the same code. Beyond its
    # limits PyTorch would go on without compiling, and the figures would be of something else.
    limits = {"recompile_limit": _MANY, "accumulated_recompile_limit": _MANY}
    try:
        with torch._dynamo.config.patch(limits):
            yield
    except (BackendCompilerFailed, InductorError) as error:
        raise OptionError(
            f"--compile: PyTorch cannot compile here: {error}",
            hint="leave out --compile, or install a C++ compiler (CPU) or triton (CUDA)",
        ) from None
