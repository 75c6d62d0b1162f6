"""Adapters, gates, drop path and shifts of single instances."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from scalenet_cli.adapters.bottleneck import BottleneckAdapter
from scalenet_cli.errors import AdapterTooWide, PlanErrors
from scalenet_cli.surgery.instance import AdjustedLinear
from tests.laws.building import make_model
from tests.models import TinyCase, tiny_case

B, N, IN, OUT, D = 2, 5, 12, 10, 3


def adapter(activation: str | None = "gelu", *, zero: bool = False) -> BottleneckAdapter:
    torch.manual_seed(0)
    made = BottleneckAdapter(nn.Linear(IN, OUT), D, activation).to_empty(device="cpu")
    nn.init.normal_(made.down.weight)
    nn.init.zeros_(made.up.weight) if zero else nn.init.normal_(made.up.weight)
    return made


@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", None])
def test_an_adapter_computes_the_papers_formula(activation: str | None) -> None:
    made, x, y = adapter(activation), torch.randn(B, N, IN), torch.randn(B, N, OUT)
    inner = x @ made.down.weight.T
    if activation is not None:
        inner = getattr(torch.nn.functional, activation)(inner)
    expected = y + inner @ made.up.weight.T
    assert torch.allclose(made.add_to(y, x), expected, atol=1e-5)
    images = x.reshape(B, 1, N, IN)
    assert torch.allclose(
        made.add_to(y.reshape(B, 1, N, OUT), images).view_as(y), expected, atol=1e-5
    )


def test_a_fresh_adapter_adds_exactly_nothing_and_learns_in_up_first() -> None:
    made, x, y = adapter(zero=True), torch.randn(B, N, IN), torch.randn(B, N, OUT)
    answer = made.add_to(y, x)
    assert torch.equal(answer, y)
    answer.square().sum().backward()
    assert made.up.weight.grad.abs().min() > 0
    assert not made.down.weight.grad.any()


def test_an_adapter_has_the_parameters_and_flops_that_it_states() -> None:
    made = adapter()
    assert sum(p.numel() for p in made.parameters()) == D * (IN + OUT)
    with FlopCounterMode(display=False) as counter:
        made.add_to(torch.randn(B, N, OUT), torch.randn(B, N, IN))
    assert counter.get_total_flops() == 2 * B * N * D * (IN + OUT)


@pytest.mark.parametrize("dim", [OUT, IN, 100])
def test_an_adapter_is_a_bottleneck(dim: int) -> None:
    with pytest.raises(AdapterTooWide, match=f"adapter.dim is {dim}"):
        BottleneckAdapter(nn.Linear(IN, OUT), dim, "gelu")


def test_gates_scale_the_core_and_not_the_adjustment() -> None:
    core, made, x = nn.Linear(IN, OUT), adapter(), torch.randn(B, N, IN)
    gate = nn.Parameter(torch.rand(OUT))
    expected = gate * core(x) + made.add_to(torch.zeros(B, N, OUT), x)
    assert torch.allclose(AdjustedLinear(core, made, gate)(x), expected, atol=1e-6)


def test_average_gates_are_one_over_the_number_of_instances() -> None:
    model = make_model(tiny_case("vit"), factor=3, start="average")
    gates = {key: p for key, p in model.named_parameters() if key.endswith(".gate")}
    assert len(gates) == 9 * 2
    assert all(torch.equal(gate, torch.full_like(gate, 1 / 3)) for gate in gates.values())
    plain = make_model(tiny_case("vit"), factor=3)
    assert not [key for key, _ in plain.named_parameters() if key.endswith(".gate")]


def adapted(model: nn.Module) -> set[int]:
    return {
        position
        for position, block in enumerate(model.blocks)
        if any(isinstance(module, BottleneckAdapter) for module in block.modules())
    }


@pytest.mark.parametrize(
    ("instances", "expected"), [("all", {0, 1, 2, 3}), ("scaled", {1, 2}), ("new", {2})]
)
def test_which_instances_get_an_adapter(instances: str, expected: set[int]) -> None:
    model = make_model(
        tiny_case("vit"),
        shared={"scope": {"blocks": [1]}},
        adapter={"dim": 4, "instances": instances},
    )
    assert adapted(model) == expected


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("mlp", ["mlp.fc1", "mlp.fc2"]),
        ("attention", ["attn.qkv", "attn.proj"]),
        ("all-linear", ["attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"]),
        (["fc1"], ["mlp.fc1"]),
        (["attn.*"], ["attn.qkv", "attn.proj"]),
        (["*.fc?", "qkv"], ["attn.qkv", "mlp.fc1", "mlp.fc2"]),
    ],
)
def test_targets(targets: object, expected: list[str]) -> None:
    block = make_model(tiny_case("vit"), adapter={"dim": 4, "targets": targets}).blocks[0]
    found = [path for path, module in block.named_modules() if isinstance(module, AdjustedLinear)]
    assert found == expected


def test_every_pattern_without_a_match_is_named() -> None:
    with pytest.raises(PlanErrors) as caught:
        make_model(tiny_case("vit"), adapter={"dim": 4, "targets": ["fc1", "fc3", "q_proj"]})
    assert "fc3" in str(caught.value)
    assert "q_proj" in str(caught.value)
    assert "Linears here: attn.qkv, attn.proj, mlp.fc1, mlp.fc2" in str(caught.value)


def rates(model: nn.Module, blocks: list[nn.Module]) -> list[float]:
    return [
        round(block.drop_path2.drop_prob, 6) if isinstance(block.drop_path2, DropPath) else 0.0
        for block in blocks
    ]


def test_drop_path_is_linear_over_the_new_depth() -> None:
    model = make_model(tiny_case("vit"), drop_path=0.5)
    assert rates(model, list(model.blocks)) == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]
    swin = make_model(tiny_case("swin"), drop_path=0.35, shared={"scope": "last-stage"})
    blocks = [block for stage in swin.layers for block in stage.blocks]
    assert rates(swin, blocks) == [0.0, 0.07, 0.14, 0.21, 0.28, 0.35]


def test_a_new_instance_keeps_the_shift_of_its_source() -> None:
    case = tiny_case("swin")
    model = make_model(case)
    shifts = [tuple(block.shift_size) for block in model.layers[0].blocks]
    assert shifts == [(0, 0), (0, 0), (2, 2), (2, 2)]


def test_timm_features_work_on_a_scaled_model() -> None:
    case = tiny_case("vit")
    model = make_model(case)
    assert len(model.forward_intermediates(case.inputs["x"], intermediates_only=True)) == 6
    assert model.forward_features(case.inputs["x"]).shape == (2, 17, 32)
    assert [entry["module"] for entry in model.feature_info][-1] == "blocks.5"


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3"])
def test_a_scaled_decoder_has_a_cache_slot_per_instance(name: str) -> None:
    case: TinyCase = tiny_case(name)
    model = make_model(case)
    assert [layer.self_attn.layer_idx for layer in model.model.layers] == [0, 1, 2, 3]
    assert model.config.num_hidden_layers == 4
    assert all(layer.self_attn.config is model.config for layer in model.model.layers)
    if name != "llama":
        sliding, full = case.model.config.layer_types
        assert model.config.layer_types == [sliding, sliding, full, full]
