"""The laws of style.md that every family obeys, each against an independent oracle."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scalenet_cli import load
from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.errors import BundleTieBroken, CannotFold
from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.surgery import expand, verify_ties
from scalenet_cli.surgery.ties import keys_by_parameter
from scalenet_cli.surgery.untie import fold, untie
from tests.laws.building import (
    make_model,
    make_plan,
    randomise_instances,
    sources_of,
    write_plan,
    write_source,
)
from tests.laws.oracle import run_in_mapping_order
from tests.models import ARCHITECTURES, TinyCase, logits_of

every_case = pytest.mark.parametrize("case", ARCHITECTURES, indirect=True)
# By default a ViT, a Swin and a decoder; the others are slow, but for samples of law 2.
each_kind = pytest.mark.parametrize(
    "case",
    [
        name if name in ("vit", "swin", "llama") else pytest.param(name, marks=pytest.mark.slow)
        for name in ARCHITECTURES
    ],
    indirect=True,
)

# One tolerance per dtype, relative to the largest value.
TOLERANCE = {torch.float32: 2e-5}


def close(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal within the rounding of the dtype."""
    return bool((one - other).abs().max() <= TOLERANCE[one.dtype] * other.abs().max())


def gated_start(case: TinyCase) -> str:
    """A start with gates that the family supports: Gemma's norms cancel an average."""
    return "identity" if case.name == "gemma3" else "average"


def block_ties(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Keys that share a Parameter, but for a decoder's tied head: transformers ties that one."""
    groups = keys_by_parameter(model).values()
    return {keys[0]: keys for keys in groups if len(keys) > 1 and "lm_head.weight" not in keys}


@each_kind
def test_law_1_without_extra_instances_nothing_changes(case: TinyCase) -> None:
    for start in ("copy", gated_start(case), "identity"):
        model = make_model(case, factor=1, start=start)
        assert torch.equal(case.logits(model), case.logits(case.model))


@pytest.mark.sample(5)
@every_case
@pytest.mark.parametrize("mapping", ["interpolate", "stack"])
@pytest.mark.parametrize("norms", ["tied", "untied"])
@pytest.mark.parametrize(
    "adapter",
    [{"dim": 4}, {"type": "lora", "dim": 4, "targets": "all-linear"}, {"type": "none"}],
    ids=["parallel", "lora", "none"],
)
def test_law_2_fresh_instances_compute_what_their_sources_compute(
    case: TinyCase, mapping: str, norms: str, adapter: dict[str, object]
) -> None:
    changes = {"mapping": mapping, "adapter": adapter, "shared": {"scope": "all", "norms": norms}}
    expected = run_in_mapping_order(case, sources_of(case, make_plan(case, **changes)))
    assert torch.equal(case.logits(make_model(case, **changes)), expected)
    assert not torch.equal(expected, case.logits(case.model))


@pytest.mark.sample(3)
@every_case
@pytest.mark.parametrize("weights", ["copied", "tied"])
def test_law_2_holds_for_written_out_sources_and_part_of_the_blocks(
    case: TinyCase, weights: str
) -> None:
    depths = [stage.depth for stage in case.family.stages(case.model)]
    written = [[*range(depth), 1, 1] for depth in depths]
    shared = {"scope": "all", "weights": weights}
    model = make_model(case, mapping={"sources": written}, factor=None, shared=shared)
    assert torch.equal(case.logits(model), run_in_mapping_order(case, written))
    shared = {"scope": {"blocks": [1]}, "weights": weights}
    model = make_model(case, mapping="stack", factor=3, shared=shared)
    plan = make_plan(case, mapping="stack", factor=3, shared=shared)
    sources = sources_of(case, plan)
    assert sources[0][:4] == [0, 1, 1, 1]
    assert torch.equal(case.logits(model), run_in_mapping_order(case, sources))


def _to_dtype(model: nn.Module) -> nn.Module:
    return model.to(torch.float64)


def _to_empty(model: nn.Module) -> nn.Module:
    return model.to("meta").to_empty(device="cpu")


def _assign(model: nn.Module) -> nn.Module:
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=True)
    return model


def _train_step(model: nn.Module) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()
    optimizer.step()
    return model


@each_kind
@pytest.mark.parametrize("change", [_to_dtype, copy.deepcopy, _to_empty, _assign, _train_step])
def test_law_3_ties_survive(case: TinyCase, change: Callable[[nn.Module], nn.Module]) -> None:
    model = make_model(case, start=gated_start(case))
    ties = block_ties(model)
    assert ties
    verify_ties(change(model), ties)


@each_kind
def test_law_3_a_tie_broken_by_hand_is_noticed(case: TinyCase) -> None:
    model = make_model(case, adapter={"type": "none"})
    ties = block_ties(model)
    path, _, name = next(key for key in ties if key.endswith("proj.weight")).rpartition(".")
    parent, _, child = path.rpartition(".")
    model.get_submodule(parent).set_submodule(child, copy.deepcopy(model.get_submodule(path)))
    assert name == "weight"
    with pytest.raises(BundleTieBroken, match="should be one tensor"):
        verify_ties(model, ties)


@each_kind
def test_law_4_a_tied_gradient_is_the_sum_over_untied_instances(case: TinyCase) -> None:
    tied = make_model(case)
    randomise_instances(tied, case.model)
    twin = untie(tied, case.family)
    for model in (tied, twin):
        logits_of(model(**case.inputs)).square().mean().backward()
    gradients = {key: p.grad for key, p in twin.named_parameters(remove_duplicate=False)}
    ties = block_ties(tied)
    assert ties
    for keys in ties.values():
        total = sum(gradients[key] for key in keys)
        assert close(tied.get_parameter(keys[0]).grad, total), keys


@each_kind
def test_law_5_stored_parameters_are_the_base_and_what_instances_own(case: TinyCase) -> None:
    plan = make_plan(case, start=gated_start(case))
    layout = resolve_layout(plan, stage_shapes(case.family, case.model))
    expansion = expand(case.model, layout, plan, case.family)
    shapes = dict(expansion.model.named_parameters())
    own = sum(shapes[key].numel() for key in expansion.owned)
    base = sum(parameter.numel() for parameter in case.model.parameters())
    assert base + own == sum(p.numel() for p in expansion.model.parameters())


@each_kind
def test_law_6_the_source_model_is_untouched(case: TinyCase) -> None:
    before = {key: tensor.clone() for key, tensor in case.model.state_dict().items()}
    identities = [id(parameter) for parameter in case.model.parameters()]
    picture, answer = repr(case.model), case.logits(case.model)
    settings = case.model.config.to_dict() if case.architecture.family == "llama" else None
    make_model(case, start="identity")
    assert repr(case.model) == picture
    assert [id(parameter) for parameter in case.model.parameters()] == identities
    assert torch.equal(case.logits(case.model), answer)
    assert all(torch.equal(t, before[k]) for k, t in case.model.state_dict().items())
    if settings is not None:
        assert case.model.config.to_dict() == settings


@each_kind
def test_laws_5_7_8_bundles(case: TinyCase, tmp_path: Path) -> None:
    source = write_source(case, tmp_path / "source")
    plan = make_plan(case, start=gated_start(case))
    written = write_plan(plan, tmp_path / "plan.yaml")
    for name in ("one", "two"):
        report = expand_checkpoint(str(source), str(written), tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    names = sorted(path.name for path in one.iterdir())
    assert names == sorted(path.name for path in two.iterdir())
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes(), name

    loaded = load(one)
    expected = make_model(case, start=gated_start(case))
    parameters = dict(expected.named_parameters())
    assert parameters.keys() == dict(loaded.named_parameters()).keys()
    for key, parameter in loaded.named_parameters():
        assert torch.equal(parameter, parameters[key]), key
    assert torch.equal(case.logits(loaded), case.logits(expected))
    assert block_ties(loaded) == block_ties(expected)

    data = sum(p.numel() * p.element_size() for p in loaded.parameters())
    sizes = sum((one / name).stat().st_size for name in names if name.endswith(".safetensors"))
    assert data == report.bundle_bytes
    assert data < sizes < data + 60_000  # two headers


@each_kind
def test_law_9_untie_and_fold_compute_the_same(case: TinyCase) -> None:
    adapter = {"type": "lora", "dim": 4, "targets": "all-linear"}
    model = make_model(case, adapter=adapter, start=gated_start(case))
    randomise_instances(model, case.model)
    untied = untie(model, case.family)
    assert not block_ties(untied)
    assert torch.equal(case.logits(untied), case.logits(model))
    folded = fold(untied)
    assert close(case.logits(folded), case.logits(model))
    assert "AdjustedLinear" not in repr(folded)
    with pytest.raises(CannotFold, match="shares its weight"):
        fold(model)


@each_kind
def test_law_9_an_adapter_with_an_activation_cannot_be_folded(case: TinyCase) -> None:
    with pytest.raises(CannotFold, match="has an activation"):
        fold(untie(make_model(case), case.family))


@each_kind
def test_start_identity_equals_the_source_bit_for_bit(case: TinyCase) -> None:
    for mapping in ("interpolate", "stack"):
        model = make_model(case, mapping=mapping, factor=3, start="identity")
        assert torch.equal(case.logits(model), case.logits(case.model))


@each_kind
def test_start_identity_learns_at_once(case: TinyCase) -> None:
    adapter = {"type": "lora", "dim": 4, "targets": "all-linear"}
    model = make_model(case, start="identity", adapter=adapter)
    ups = {key: p for key, p in model.named_parameters() if key.endswith("adapter.up.weight")}
    closing = tuple(f"{part}.adapter.up.weight" for part in _closing(case, model))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(3)
    for step in range(2):
        optimizer.zero_grad()
        # Squared logits have no direction in which every gradient vanishes by symmetry.
        (logits_of(model(**case.inputs)) * torch.randn(1)).square().mean().backward()
        due = {key for key in ups if step == 1 or key.endswith(closing)}
        assert due
        assert not [key for key in due if not ups[key].grad.abs().max() > 0]
        optimizer.step()


def _closing(case: TinyCase, model: nn.Module) -> tuple[str, ...]:
    stage = case.family.stages(model)[0]
    return case.family.anatomy(model.get_submodule(stage.path)[0]).closing


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", ["llama", "llama_tied", "qwen3", "gemma3"], indirect=True)
@pytest.mark.parametrize("start", ["copy", "identity"])
def test_generation_with_a_cache_equals_generation_without(case: TinyCase, start: str) -> None:
    model = make_model(case, start=start)
    randomise_instances(model, case.model)
    model.generation_config.eos_token_id = None
    prompt = case.inputs["input_ids"]
    cached, plain = (
        model.generate(prompt, max_new_tokens=20, do_sample=False, use_cache=use_cache)
        for use_cache in (True, False)
    )
    assert cached.shape[1] == prompt.shape[1] + 20
    assert torch.equal(cached, plain)
