"""The laws once more, on real architectures at full size; random weights unless said otherwise."""

import copy
import filecmp
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM
from typer.testing import Result

from scalenet_cli import expand_checkpoint, load
from scalenet_cli.families import family
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.measure.flops import count_flops
from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.models.expand_module import expand_module
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.surgery import verify_ties
from scalenet_cli.surgery.untie import fold, untie
from tests.laws.building import make_model, make_plan, randomise_instances, sources_of, write_plan
from tests.laws.oracle import run_in_mapping_order
from tests.laws.test_family_laws import TOLERANCE, block_ties, close
from tests.models import TinyCase, logits_of

pytestmark = pytest.mark.slow

# Llama-3.2-1B, 1.24 B parameters.
LLAMA_1B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 131072,
}
MODELS = ("deit_base_patch16_224", "swin_tiny_patch4_window7_224", "llama_1b")


def build(name: str) -> TinyCase:
    torch.manual_seed(0)
    if name == "llama_1b":
        model: nn.Module = LlamaForCausalLM(LlamaConfig(**LLAMA_1B)).eval()
        inputs = {"input_ids": torch.randint(0, 128256, (1, 16)), "use_cache": False}
        return TinyCase(
            name, Architecture("llama", "llama", LLAMA_1B), family("llama"), model, inputs
        )
    kind = "swin" if name.startswith("swin") else "vit"
    model = timm.create_model(name).eval()
    return TinyCase(
        name, Architecture(kind, name), family(kind), model, {"x": torch.randn(1, 3, 224, 224)}
    )


@pytest.fixture(scope="module", params=MODELS)
def big(request: pytest.FixtureRequest) -> TinyCase:
    return build(request.param)


def mapping_of(case: TinyCase) -> str:
    return "stack" if case.architecture.family == "swin" else "interpolate"


def test_laws_1_2_6(big: TinyCase) -> None:
    before = big.logits(big.model)
    assert torch.equal(big.logits(make_model(big, factor=1)), before)
    changes = {"mapping": mapping_of(big), "adapter": {"dim": 16}}
    expected = run_in_mapping_order(big, sources_of(big, make_plan(big, **changes)))
    assert torch.equal(big.logits(make_model(big, **changes)), expected)
    assert torch.equal(big.logits(big.model), before)


def test_identity_is_the_source(big: TinyCase) -> None:
    model = make_model(big, mapping=mapping_of(big), start="identity", adapter={"dim": 16})
    assert torch.equal(big.logits(model), big.logits(big.model))


def test_law_3(big: TinyCase) -> None:
    model = make_model(big, mapping=mapping_of(big), adapter={"dim": 16})
    ties = block_ties(model)
    assert ties
    verify_ties(model.to("meta"), ties)
    verify_ties(copy.deepcopy(model), ties)


def test_law_4(big: TinyCase) -> None:
    """Every gradient of the untied twin is taken off the tied one's sum as soon as it is there.

    So no more than one gradient of the twin is in memory, and the 1.24 B model fits in float32.
    """
    tied = make_model(big, mapping=mapping_of(big), adapter={"dim": 16})
    randomise_instances(tied, big.model)
    twin = untie(tied, big.family)
    ties = block_ties(tied)
    canonical = {key: keys[0] for keys in ties.values() for key in keys}
    sums = gradients_of(tied, big, set(ties))
    rest = {key: gradient.clone() for key, gradient in sums.items()}
    seen = []

    def subtract(key: str, parameter: torch.Tensor) -> None:
        rest[canonical[key]] -= parameter.grad
        parameter.grad = None
        seen.append(key)

    for key, parameter in twin.named_parameters():
        parameter.requires_grad_(key in canonical)
        if key in canonical:
            parameter.register_post_accumulate_grad_hook(partial(subtract, key))
    logits_of(twin(**big.inputs)).square().mean().backward()
    assert sorted(seen) == sorted(canonical)
    for key, gradient in sums.items():
        assert gradient.abs().max() > 0
        assert rest[key].abs().max() <= TOLERANCE[torch.float32] * gradient.abs().max(), key


def gradients_of(model: nn.Module, case: TinyCase, keys: set[str]) -> dict[str, torch.Tensor]:
    """The gradients of some parameters alone; the model keeps none."""
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in keys)
    logits_of(model(**case.inputs)).square().mean().backward()
    gradients = {key: model.get_parameter(key).grad for key in keys}
    model.zero_grad()
    return gradients


def test_flops_equal_the_real_model(big: TinyCase) -> None:
    plan = make_plan(big, mapping=mapping_of(big), adapter={"dim": 16})
    model = expand_module(big.model, plan, family=big.architecture.family)
    size = 64 if big.name == "llama_1b" else 224
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(**big.family.example_inputs(model, size, "cpu"))
    layout = resolve_layout(plan, stage_shapes(big.family, big.model))
    report = count_flops(model, layout, big.family, size)
    assert report.flops == counter.get_total_flops()
    assert sum(row.flops for row in report.instances) + report.outside_flops == report.flops


@pytest.mark.parametrize("factor", [2, 8])
def test_a_deit_b_bundle_is_hardly_larger(
    factor: int, tmp_path: Path, run: Callable[..., Result]
) -> None:
    """At most 1.04 times the source at factor 2; at factor 8, new instance tensors alone."""
    source = tmp_path / "deit_base.pth"
    torch.save({"model": build("deit_base_patch16_224").model.state_dict()}, source)
    plan = tmp_path / "plan.yaml"
    plan.write_text(f"version: 1\nmapping: interpolate\nfactor: {factor}\nstart: copy\n")
    for name in ("one", "two"):
        result = run("expand", source, "--plan", plan, "-o", tmp_path / name, "--json")
        assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "one").iterdir()}
    for name in sizes:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    if factor == 2:
        assert sum(sizes.values()) <= 1.04 * source.stat().st_size
    own = 4 * ((factor - 1) * 12 * 4 * 768 + factor * 12 * 2 * 16 * (768 + 3072))
    assert report["bundle_bytes"] - report["source_bytes"] == own
    assert 0 < sizes["adapters.safetensors"] - own < 400 * factor * 12 * 8
    assert sizes["model.safetensors"] - report["source_bytes"] < 20_000

    expected = expand_module(
        build("deit_base_patch16_224").model,
        make_plan(build("deit_base_patch16_224"), factor=factor, adapter={"dim": 16}),
        family="vit",
    )
    loaded = load(tmp_path / "one")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.equal(loaded(x), expected(x))


@pytest.mark.parametrize("name", MODELS)
def test_law_9(name: str) -> None:
    big = build(name)
    adapter = {"type": "lora", "dim": 8, "targets": "all-linear"}
    model = make_model(big, mapping=mapping_of(big), adapter=adapter, start="average")
    randomise_instances(model, big.model)
    expected, inputs = big.logits(model), big.inputs
    untied = untie(model, big.family)
    assert not block_ties(untied)
    del big, model  # the folded weights of the 1.24 B model need their room
    with torch.no_grad():
        assert torch.equal(logits_of(untied(**inputs)), expected)
        assert close(logits_of(fold(untied)(**inputs)), expected)


def test_laws_5_7_8_of_a_swin_t_bundle(tmp_path: Path) -> None:
    big = build("swin_tiny_patch4_window7_224")
    plan = make_plan(big, mapping="stack", adapter={"dim": 16}, start="average")
    source = tmp_path / "swin.pth"
    torch.save({"model": big.model.state_dict()}, source)
    written = write_plan(plan, tmp_path / "plan.yaml")
    for name in ("one", "two"):
        report = expand_checkpoint(source, written, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name
    loaded = load(tmp_path / "one")
    assert report.parameters.stored == sum(p.numel() for p in loaded.parameters())
    assert report.bundle_bytes == sum(p.numel() * 4 for p in loaded.parameters())
    expected = expand_module(big.model, plan, family="swin")
    assert torch.equal(big.logits(loaded), big.logits(expected))


def test_laws_5_7_8_of_a_llama_bundle(tmp_path: Path) -> None:
    """In bfloat16 and shards of 1 GB, as such checkpoints come."""
    torch.manual_seed(0)
    config = LlamaConfig(**LLAMA_1B)
    base = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16).eval()
    base.save_pretrained(tmp_path / "source", max_shard_size="1GB")
    plan = ExpansionPlan.model_validate({"version": 1, "mapping": "interpolate", "factor": 2})
    written = write_plan(plan, tmp_path / "plan.yaml")
    for name in ("one", "two"):
        report = expand_checkpoint(tmp_path / "source", written, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    equal, _, _ = filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False)
    assert sorted(equal) == names
    loaded = load(tmp_path / "one")
    assert report.parameters.stored == sum(p.numel() for p in loaded.parameters())
    assert report.bundle_bytes == sum(p.numel() * 2 for p in loaded.parameters())
    expected = expand_module(base, plan, family="llama")
    tokens = {"input_ids": torch.arange(16)[None], "use_cache": False}
    with torch.no_grad():
        assert torch.equal(loaded(**tokens).logits, expected(**tokens).logits)
