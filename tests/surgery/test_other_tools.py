"""Tools that listen to modules or replace them: what they do to an adapter has its effect."""

import copy
import io
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import accelerate
import onnxruntime
import peft
import pytest
import torch
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torchao.quantization import Int8WeightOnlyConfig, quantize_

from scalenet_cli.adapters.base import Adapter
from scalenet_cli.errors import TieReplacedInPart
from scalenet_cli.surgery.guard import TieGuard
from scalenet_cli.surgery.instance import AdjustedLinear
from scalenet_cli.surgery.ties import keys_by_parameter
from scalenet_cli.surgery.untie import untie
from tests.laws.building import make_model, randomise_instances
from tests.models import TinyCase, logits_of

STARTS = ("copy", "identity")
both_kinds = pytest.mark.parametrize("case", ["vit", "llama"], indirect=True)


def trained(case: TinyCase, start: str = "identity") -> nn.Module:
    """A scaled model whose adapters and gates have learned something."""
    model = make_model(case, start=start).requires_grad_(False)
    randomise_instances(model, case.model)
    for module in model.modules():
        if isinstance(module, Adapter):
            module.requires_grad_(True)
    return model


def answer(case: TinyCase, model: nn.Module) -> torch.Tensor:
    """Logits with gradients on: there the fast path has most to lose."""
    return logits_of(model(**case.inputs)).detach()


@contextmanager
def definition() -> Iterator[None]:
    """Inside, every adjusted Linear calls its modules, one after another."""

    def forward(self: AdjustedLinear, x: torch.Tensor) -> torch.Tensor:
        y = self.core(x) if self.gate is None else self.gate * self.core(x)
        return y if self.adapter is None else y + self.adapter(x)

    fast = AdjustedLinear.forward
    AdjustedLinear.forward = forward
    try:
        yield
    finally:
        AdjustedLinear.forward = fast


@pytest.mark.sample(3)
@both_kinds
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("where", ["cpu", "disk"])
def test_offloaded_weights_are_fetched(
    case: TinyCase, start: str, where: str, tmp_path: Path
) -> None:
    model = trained(case, start)
    expected = answer(case, model)
    if where == "cpu":
        accelerate.cpu_offload(model, torch.device("cpu"))
    else:
        accelerate.disk_offload(model, str(tmp_path), torch.device("cpu"))
    assert torch.allclose(answer(case, model), expected, atol=1e-5)
    assert torch.allclose(case.logits(model), expected, atol=1e-5)


def int8(model: nn.Module) -> nn.Module:
    def is_left(module: nn.Module, _: str) -> bool:
        # torchao comes to a shared Linear once per instance, and fails at one that it has done.
        return type(module) is nn.Linear and type(module.weight) is nn.Parameter

    quantize_(model, Int8WeightOnlyConfig(), filter_fn=is_left)
    return model


def dynamic(model: nn.Module) -> nn.Module:
    return quantize_dynamic(model, {nn.Linear}, torch.qint8)


@both_kinds
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("quantise", [int8, dynamic])
def test_quantised_linears_are_called(
    case: TinyCase, quantise: Callable[[nn.Module], nn.Module]
) -> None:
    whole = trained(case)
    expected = answer(case, whole)
    model = quantise(whole)
    ups = [m.adapter.up for m in model.modules() if isinstance(m, AdjustedLinear) and m.adapter]
    assert ups
    assert not any(type(getattr(up, "weight", None)) is nn.Parameter for up in ups)
    with torch.no_grad():
        found = logits_of(model(**case.inputs))
        with definition():
            assert torch.equal(found, logits_of(model(**case.inputs)))
    assert 0 < (found - expected).norm() < 0.1 * expected.norm()


@both_kinds
@pytest.mark.parametrize("every", [False, True])
def test_hooks_see_every_call(case: TinyCase, every: bool) -> None:
    model = trained(case)
    expected, seen = answer(case, model), []
    watched = {
        id(part)
        for module in model.modules()
        if isinstance(module, AdjustedLinear)
        for part in module.modules()
    }

    def note(module: nn.Module, *_: object) -> None:
        if id(module) in watched:
            seen.append(id(module))

    if every:
        handles = [torch.nn.modules.module.register_module_forward_hook(note)]
    else:
        handles = [m.register_forward_hook(note) for m in model.modules() if id(m) in watched]
    try:
        assert torch.allclose(answer(case, model), expected, atol=1e-5)
        assert set(seen) == watched
        once = len(seen)
        case.logits(model)
        assert len(seen) == 2 * once
    finally:
        for handle in handles:
            handle.remove()


class Louder(nn.Module):
    """Stands in the place of a Linear, or of a whole adapter, and doubles what it says."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * self.inner(x)


@both_kinds
@pytest.mark.parametrize("part", ["adapter", "adapter.up", "adapter.down", "core"])
def test_replaced_parts_are_called(case: TinyCase, part: str) -> None:
    model = trained(case, "copy")
    expected = answer(case, model)
    for module in list(model.modules()):
        if isinstance(module, AdjustedLinear):
            module.set_submodule(part, Louder(module.get_submodule(part)))
    found = answer(case, model)
    assert not torch.allclose(found, expected, atol=1e-3)
    assert torch.allclose(case.logits(model), found, atol=1e-5)
    with definition():
        assert torch.allclose(answer(case, model), found, atol=1e-5)


@both_kinds
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_peft_on_adapters(case: TinyCase) -> None:
    model = trained(case)
    expected = answer(case, model)
    config = peft.LoraConfig(r=2, target_modules=["up"])
    wrapped = peft.get_peft_model(model, config).eval()
    assert torch.allclose(answer(case, wrapped), expected, atol=1e-5)
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in wrapped.named_parameters():
            if "lora_" in key:
                parameter.normal_()
    found = answer(case, wrapped)
    assert not torch.allclose(found, expected, atol=1e-2)
    with definition():
        assert torch.allclose(answer(case, wrapped), found, atol=1e-4)


class Logits(nn.Module):
    """One tensor in, one tensor out, as exporters like it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return logits_of(self.model(x))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["vit"], indirect=True)
@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.slow), False])
def test_onnx_outside_of_no_grad(case: TinyCase, dynamo: bool, tmp_path: Path) -> None:
    model = trained(case)
    expected = answer(case, model)
    (name, value), path = next(iter(case.inputs.items())), tmp_path / "model.onnx"
    torch.onnx.export(
        Logits(model), (value,), path, dynamo=dynamo, input_names=[name], verbose=False
    )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {name: value.numpy()})
    assert torch.allclose(torch.from_numpy(found), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["vit"], indirect=True)
def test_traced_outside_of_no_grad(case: TinyCase) -> None:
    model = trained(case)
    (value,) = case.inputs.values()
    traced = torch.jit.trace(Logits(model), value)
    torch.jit.save(traced, buffer := io.BytesIO())
    buffer.seek(0)
    assert torch.allclose(torch.jit.load(buffer)(value), answer(case, model), atol=1e-5)


@pytest.mark.parametrize("case", ["vit"], indirect=True)
def test_fx_sees_the_calls_of_an_adapter(case: TinyCase) -> None:
    model = trained(case)
    adjusted = next(m for m in model.modules() if isinstance(m, AdjustedLinear) and m.adapter)
    graph = torch.fx.symbolic_trace(adjusted)
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    assert called == {"core", "adapter.down", "adapter.up"}
    x = torch.randn(2, 5, adjusted.in_features)
    assert torch.allclose(graph(x), adjusted(x), atol=1e-5)


TARGETS = {
    "vit": (["qkv"], ["fc1"], "all-linear"),
    "swin": (["qkv"], ["fc1"], "all-linear"),
    "llama": (["q_proj"], ["up_proj"], "all-linear"),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("case", list(TARGETS), indirect=True)
@pytest.mark.parametrize("order", range(3))
def test_peft_cannot_reach_half_of_the_instances(case: TinyCase, order: int) -> None:
    """A shared Linear is one object, so PEFT wraps it in one block only."""
    model = make_model(case, start="identity", adapter={"type": "none"}, train="all")
    config = peft.LoraConfig(r=2, target_modules=TARGETS[case.name][order])
    wrapped: nn.Module = peft.get_peft_model(model, config)
    with pytest.raises(TieReplacedInPart, match=r"was replaced by a peft\S+Linear, but .*"):
        wrapped(**case.inputs)
    model.set_grad_checkpointing() if case.name != "llama" else None
    with pytest.raises(TieReplacedInPart):
        wrapped.train()(**case.inputs)


@both_kinds
def test_a_guard_notices_copies_and_allows_what_reaches_all_places(case: TinyCase) -> None:
    model = copy.deepcopy(make_model(case))
    expected = case.logits(model)
    names = [n for names in keys_by_parameter(model).values() if len(names) > 1 for n in names]
    places = sorted({name.rpartition(".")[0] for name in names})
    for place in places[1:]:
        model.set_submodule(place, copy.deepcopy(model.get_submodule(place)))
    with pytest.raises(TieReplacedInPart):
        case.logits(model)
    model.set_submodule(places[0], copy.deepcopy(model.get_submodule(places[0])))
    assert torch.equal(case.logits(model), expected)
    pickled = pickle.loads(pickle.dumps(make_model(case)))
    assert torch.equal(case.logits(pickled), expected)


@both_kinds
def test_surgery_leaves_no_guard_behind(case: TinyCase) -> None:
    untied = untie(make_model(case), case.family)
    assert not any(
        isinstance(hook, TieGuard)
        for module in untied.modules()
        for hook in module._forward_pre_hooks.values()
    )
