"""The fused training step of an adapter against its definition, and what it keeps in memory."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from scalenet_cli.adapters.bottleneck import BottleneckAdapter
from scalenet_cli.adapters.calls import runs_only_forward
from scalenet_cli.adapters.fused import can_fuse
from scalenet_cli.surgery.instance import AdjustedLinear
from tests.laws.building import make_model
from tests.models import tiny_case

B, N, IN, OUT, D = 2, 5, 12, 10, 3
every_activation = pytest.mark.parametrize("activation", ["gelu", "relu", "silu", None])


def adjusted(
    activation: str | None = "gelu",
    *,
    dtype: torch.dtype = torch.float32,
    bias: bool = True,
    core_trains: bool = False,
    zero: bool = False,
) -> AdjustedLinear:
    torch.manual_seed(0)
    core = nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(core_trains)
    adapter = BottleneckAdapter(core, D, activation).to_empty(device="cpu")
    nn.init.normal_(adapter.down.weight)
    nn.init.zeros_(adapter.up.weight) if zero else nn.init.normal_(adapter.up.weight)
    return AdjustedLinear(core, adapter, None)


def plain(module: AdjustedLinear, x: torch.Tensor) -> torch.Tensor:
    """The definition."""
    return module.core(x) + module.adapter(x)


def inputs(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(*(shape or (B, N)), IN, dtype=dtype, requires_grad=True)


Run = Callable[[AdjustedLinear, torch.Tensor], torch.Tensor]


def values(run: Run, module: AdjustedLinear, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The output, and the gradient of everything that requires one."""
    named = {"x": x} | {k: p for k, p in module.named_parameters() if p.requires_grad}
    y = run(module, x)
    torch.manual_seed(2)
    grads = torch.autograd.grad(y, list(named.values()), torch.randn_like(y))
    return {"y": y.detach()} | dict(zip(named, grads, strict=True))


def assert_same(run: Run, module: AdjustedLinear, x: torch.Tensor, tolerance: float) -> None:
    expected, found = values(plain, module, x), values(run, module, x)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.allclose(found[key], tensor, atol=tolerance, rtol=tolerance), key


def fuses(module: AdjustedLinear, x: torch.Tensor) -> bool:
    return runs_only_forward(module.adapter, BottleneckAdapter) and can_fuse(
        x, module.core, module.adapter.down, module.adapter.up
    )


def call(module: AdjustedLinear, x: torch.Tensor) -> torch.Tensor:
    return module(x)


@pytest.mark.sample(3)
@every_activation
@pytest.mark.parametrize("core_trains", [False, True])
@pytest.mark.parametrize("shape", [(7,), (B, N), (B, 3, N)])
def test_values_and_gradients_are_those_of_the_definition(
    activation: str | None, core_trains: bool, shape: tuple[int, ...]
) -> None:
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.float64, 1e-12)):
        for bias in (True, False):
            module = adjusted(activation, dtype=dtype, bias=bias, core_trains=core_trains)
            x = inputs(*shape, dtype=dtype)
            assert fuses(module, x)
            assert_same(call, module, x, tolerance)


@pytest.mark.sample(2)
@every_activation
def test_first_and_second_derivatives(activation: str | None) -> None:
    module = adjusted(activation, dtype=torch.float64, core_trains=True)
    x = inputs(3, dtype=torch.float64)

    def run(x: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        return module(x)

    tensors = (x, *module.parameters())
    assert fuses(module, x)
    assert torch.autograd.gradcheck(run, tensors)
    assert torch.autograd.gradgradcheck(run, tensors)


@pytest.mark.parametrize("shape", [(7,), (B, N), (B, 3, N)])
def test_a_fresh_adapter_leaves_the_core_bit_for_bit(shape: tuple[int, ...]) -> None:
    module, x = adjusted(zero=True), inputs(*shape)
    assert fuses(module, x)
    assert torch.equal(module(x), module.core(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(x), module.core(x))


@pytest.mark.sample(3)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(192, 768), (768, 192), (1536, 384), (2048, 8192)])
def test_so_it_does_at_sizes_that_products_are_cut_for(
    sizes: tuple[int, int], dtype: torch.dtype
) -> None:
    for bias in (False, True):
        core = nn.Linear(*sizes, bias=bias, dtype=dtype)
        adapter = BottleneckAdapter(core, 16, "gelu").to_empty(device="cpu")
        nn.init.normal_(adapter.down.weight)
        nn.init.zeros_(adapter.up.weight)
        module, x = AdjustedLinear(core, adapter, None), torch.randn(197, sizes[0], dtype=dtype)
        assert fuses(module, x)
        assert torch.equal(module(x), core(x))


def test_autocast_computes_what_it_computes_for_the_definition() -> None:
    module, x = adjusted(core_trains=True), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        assert fuses(module, x)
        assert module(x).dtype == torch.bfloat16
        assert not fuses(module, x.double())
        expected, found = values(plain, module, x), values(call, module, x)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype, key
        assert torch.allclose(found[key], tensor, atol=0.1, rtol=0.02), key


def test_instances_of_one_core_add_their_gradients() -> None:
    first, second = adjusted(core_trains=True), adjusted()
    second.core = first.core
    nn.init.normal_(second.adapter.down.weight)

    def twice(run: Run) -> torch.Tensor:
        first.zero_grad()
        x = inputs()
        (run(first, x) * run(second, x)).sum().backward()
        return torch.cat([x.grad.flatten(), first.core.weight.grad.flatten()])

    assert torch.allclose(twice(call), twice(plain), rtol=1e-4, atol=1e-4)


def test_gradients_that_are_views_or_expanded() -> None:
    module = adjusted(core_trains=True)
    for reduce in (torch.sum, lambda y: y.transpose(0, 1)[1:].square().sum()):
        named = [inputs(), *module.parameters()]
        expected = torch.autograd.grad(reduce(plain(module, named[0])), named)
        found = torch.autograd.grad(reduce(module(named[0])), named)
        for a, b in zip(expected, found, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_batch_of_nothing() -> None:
    module = adjusted(core_trains=True)
    for shape in ((0,), (0, N), (B, 0)):
        assert fuses(module, inputs(*shape))
        assert_same(call, module, inputs(*shape), 0)


def test_checkpointing_and_compiling() -> None:
    def again(module: AdjustedLinear, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(module, x, use_reentrant=False)

    assert_same(again, adjusted(), inputs(), 1e-4)
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert_same(compiled, adjusted(), inputs(), 1e-4)


def test_functorch_gets_the_definition() -> None:
    module, x = adjusted(), inputs().detach()
    weights = dict(module.named_parameters())

    def loss(weights: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(module, weights, x).square().sum()

    singly = torch.func.vmap(torch.func.grad(loss), (None, 0))(weights, x)
    whole = torch.func.grad(loss)(weights, x)
    for key, gradient in whole.items():
        assert torch.allclose(singly[key].sum(0), gradient, rtol=1e-4, atol=1e-3)


def hook_core(module: AdjustedLinear) -> None:
    module.core.register_forward_hook(lambda *_: None)


def hook_down(module: AdjustedLinear) -> None:
    module.adapter.down.register_full_backward_hook(lambda *_: None)


def hook_adapter(module: AdjustedLinear) -> None:
    module.adapter.register_forward_hook(lambda *_: None)


def wrap_forward(module: AdjustedLinear) -> None:
    module.core.forward = module.core.forward


def compile_up(module: AdjustedLinear) -> None:
    module.adapter.up.compile(backend="eager")


def subclass(module: AdjustedLinear) -> None:
    class Other(nn.Linear):
        pass

    module.core.__class__ = Other


def parametrize_core(module: AdjustedLinear) -> None:
    nn.utils.parametrizations.weight_norm(module.core)


def freeze_adapter(module: AdjustedLinear) -> None:
    module.adapter.requires_grad_(False)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    "change",
    [
        hook_core,
        hook_down,
        hook_adapter,
        wrap_forward,
        compile_up,
        subclass,
        parametrize_core,
        freeze_adapter,
    ],
)
def test_where_a_call_may_be_watched_or_replaced_the_modules_are_called(
    change: Callable[[AdjustedLinear], None],
) -> None:
    module, x = adjusted(core_trains=True), inputs()
    assert fuses(module, x)
    change(module)
    assert not fuses(module, x)
    assert_same(call, module, x, 1e-4)


def test_hooks_of_the_core_run() -> None:
    module, seen = adjusted(), []
    module.core.register_forward_hook(lambda *_: seen.append(1))
    module(inputs()).sum().backward()
    assert seen == [1]


def test_other_inputs_get_the_definition() -> None:
    module = adjusted()
    turned = inputs(N, B).transpose(0, 1)
    assert not fuses(module, turned)
    assert_same(call, module, inputs(N, B).detach().transpose(0, 1).requires_grad_(), 1e-4)
    with torch.no_grad():
        assert not fuses(module, inputs())
    gated = adjusted()
    gated.gate = nn.Parameter(torch.rand(OUT))
    expected = gated.adapter.add_to(gated.gate * gated.core(inputs()), inputs())
    assert torch.equal(gated(inputs()), expected)


@pytest.mark.parametrize("bias", [False, True])
def test_the_work_is_counted_as_for_the_definition(bias: bool) -> None:
    totals = []
    for run in (call, plain):
        with FlopCounterMode(display=False) as counter:
            run(adjusted(core_trains=True, bias=bias), inputs()).sum().backward()
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def saved_bytes(module: nn.Module, x: torch.Tensor) -> int:
    """What autograd keeps for the backward pass, weights left out; every storage counts once."""
    weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        held = module(x)
    del held
    return sum(kept.values())


@pytest.mark.parametrize("adapter", [{"type": "none"}, {"dim": 4}])
def test_a_frozen_mlp_saves_what_the_arithmetic_needs(adapter: dict[str, Any]) -> None:
    model = make_model(tiny_case("vit"), adapter=adapter).train()
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("norm" in key or "adapter" in key)
    mlp, tokens, width = model.blocks[2].mlp, 2 * 17, 32
    x = torch.randn(2, 17, width, requires_grad=True)
    # The activation between the Linears keeps its input. The adapters keep what they multiply:
    # their inputs, once, and what enters and leaves their own activation.
    gelu = tokens * 4 * width
    adapters = tokens * (width + 4 * width) + tokens * 2 * 4 * 2
    expected = gelu if adapter.get("type") == "none" else gelu + adapters
    assert saved_bytes(mlp, x) == 4 * expected
    model(tiny_case("vit").inputs["x"]).sum().backward()
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert {k for k, p in model.named_parameters() if p.grad is not None} == trained
