"""Work per instance and in total, counted by PyTorch on tensors without data."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.measure.throughput import logits_of
from scalenet_cli.plan.layout import Layout
from scalenet_cli.reports.base import FlopReport, InstanceFlops


def count_flops(model: nn.Module, layout: Layout, family: Family, size: int) -> FlopReport:
    """FLOPs of one forward pass over one sample, with tensors without data in place of the model's.

    FlopCounterMode's total is right for tied models, but it names modules by their first path, so
    it books all instances on one. Instances are told apart here by what the total is before and
    after each block runs. Blocks of one stage with equal modules and equal shapes do equal work:
    the first of them runs, and the others answer what it answered.

    Raises:
        OptionError: the model cannot run at this input size.
    """
    counter = FlopCounterMode(display=False)
    kinds: dict[tuple[object, ...], _CountedOnce] = {}
    of_instance: list[_CountedOnce] = []
    with ExitStack() as stack:
        for stage, slot in layout:
            block = model.get_submodule(f"{stage.path}.{slot.position}")
            kind = (stage.path, *_structure(block))
            of_instance.append(kinds.setdefault(kind, _CountedOnce(counter)))
            stack.enter_context(of_instance[-1].instead_of(block))
        with torch.no_grad(), _imagining(size):
            inputs = family.example_inputs(model, size, "cpu")
            tensors = _without_data(model)
            with counter:
                functional_call(model, tensors, kwargs=inputs, tie_weights=False)
    outside = counter.get_total_flops() - sum(count.flops for count in kinds.values())
    spent = [count.flops for count in of_instance]
    return _report(layout, spent, outside=outside, size=size, tokens="input_ids" in inputs)


def count_pass(
    model: nn.Module, family: Family, size: int, *, training: bool
) -> tuple[int, torch.Size]:
    """FLOPs of one pass over one sample, and the shape of the logits.

    A training pass is forward and backward, as far as the tensors that require gradients make
    autograd go: a frozen Linear computes no gradient of its weight, and what comes before the first
    trained tensor computes none at all.

    Raises:
        OptionError: the model cannot run at this input size.
    """
    counter = FlopCounterMode(display=False)
    with _imagining(size):
        inputs = family.example_inputs(model, size, "cpu")
        tensors = _without_data(model, training=training)
        with counter:
            output = functional_call(model, tensors, kwargs=inputs, tie_weights=False)
            if training:
                # No loss has a matrix product, so any function of the logits costs the same.
                logits_of(output).float().sum().backward()  # type: ignore[no-untyped-call]
    return counter.get_total_flops(), logits_of(output).shape


@contextmanager
def _imagining(size: int) -> Iterator[None]:
    """Nothing is allocated or computed inside; only shapes are.

    Raises:
        OptionError: the model cannot run at this input size.
    """
    try:
        # Attention is written out as matrix products: not every version of PyTorch counts every
        # fused kernel, and written out it is the same work.
        with FakeTensorMode(), sdpa_kernel(SDPBackend.MATH):
            yield
    except DataDependentOutputException:
        raise OptionError(
            "the model looks at values of its input before it decides what to compute, so its work "
            "cannot be counted without data",
            hint="dynamic RoPE does so; up to max_position_embeddings tokens it is the same as "
            '"rope_type": "default" in config.json',
        ) from None
    except (AssertionError, RuntimeError, ValueError) as error:
        raise OptionError(
            f"the model does not run at input size {size}: {error}",
            hint="give a size that the patches and windows divide",
        ) from None


def _without_data(model: nn.Module, *, training: bool = False) -> dict[str, torch.Tensor]:
    """Stand-ins for parameters and buffers, in one float type: work does not depend on types.

    Called under FakeTensorMode, so nothing is allocated. A tensor of a module that the model has at
    several places is named once: functional_call would exchange it once per name, and put back what
    it found at the second, which is the stand-in. So it is told not to look for ties, and tensors
    that several modules share have one stand-in here.
    """
    made: dict[int, torch.Tensor] = {}
    named = {}
    for path, module in model.named_modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            if id(tensor) not in made:
                dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
                made[id(tensor)] = torch.empty(
                    tensor.shape, dtype=dtype, requires_grad=training and tensor.requires_grad
                )
            named[f"{path}.{name}" if path else name] = made[id(tensor)]
    return named


class _CountedOnce:
    """Runs one of several blocks that do equal work, and notes what it costs."""

    def __init__(self, counter: FlopCounterMode) -> None:
        self._counter = counter
        self._answer: Any = None
        self.flops = 0

    @contextmanager
    def instead_of(self, block: nn.Module) -> Iterator[None]:
        """Inside, the block answers what the first of its kind to be called answered."""
        forward, own = block.forward, vars(block).get("forward")

        def once(*args: Any, **kwargs: Any) -> Any:
            if self._answer is None:
                before = self._counter.get_total_flops()
                self._answer = forward(*args, **kwargs)
                self.flops = self._counter.get_total_flops() - before
            return self._answer

        block.forward = once
        try:
            yield
        finally:
            del block.forward
            if own is not None:
                block.forward = own


def _structure(block: nn.Module) -> Iterator[object]:
    """The types of a block's modules and the shapes of its tensors."""
    for name, module in block.named_modules():
        yield name, type(module)
    for name, tensor in block.named_parameters():
        yield name, tensor.shape


def _report(layout: Layout, spent: list[int], outside: int, size: int, tokens: bool) -> FlopReport:
    places = [
        (index, slot) for index, stage in enumerate(layout.stages) for slot in stage.instances
    ]
    rows = tuple(
        InstanceFlops(
            stage=index,
            position=slot.position,
            source=slot.source,
            ordinal=slot.ordinal,
            macs=flops // 2,
            flops=flops,
        )
        for (index, slot), flops in zip(places, spent, strict=True)
    )
    total = outside + sum(spent)
    return FlopReport(
        input_size=size,
        unit="tokens" if tokens else "pixels",
        macs=total // 2,
        flops=total,
        outside_macs=outside // 2,
        outside_flops=outside,
        instances=rows,
    )
