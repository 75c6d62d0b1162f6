"""What a diagnosis measures of tiny models, against autograd, numpy and models made by hand."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from scalenet_cli.errors import OptionError
from scalenet_cli.measure.ablation import adapted_linears, skipped, without_adapters
from scalenet_cli.measure.activations import CLIP, NUM_BINS, HistogramSum, sampled_depths
from scalenet_cli.measure.gradients import measure_gradients
from scalenet_cli.measure.model_outputs import (
    IGNORED,
    Samples,
    answer,
    executed_blocks,
    listening,
    score,
)
from scalenet_cli.measure.observation import Observation, observe
from scalenet_cli.plan.layout import Layout, stage_layout
from scalenet_cli.surgery.untie import untie
from tests.laws.building import make_model, make_plan, randomise_instances, sources_of
from tests.models import TinyCase, tiny_case

CPU = torch.device("cpu")
NAMES = ("vit", "swin", "llama_tied", "qwen3")
# The same code for all of them: one of each kind is enough for the default run.
TWO = (
    "vit",
    "llama_tied",
    pytest.param("swin", marks=pytest.mark.slow),
    pytest.param("qwen3", marks=pytest.mark.slow),
)
COUNT = 7


def scaled(case: TinyCase, **changes: Any) -> tuple[nn.Module, Layout]:
    """The case's model with trained-looking instances, and its layout."""
    plan = make_plan(case, **changes)
    model = make_model(case, **changes)
    randomise_instances(model, case.model)
    orders = zip(case.family.stages(case.model), sources_of(case, plan), strict=True)
    stages = [
        stage_layout(ref.path, ref.depth, tuple(order), tuple(range(ref.depth)))
        for ref, order in orders
    ]
    return model, Layout(tuple(stages))


def samples_of(case: TinyCase, *, size: int = COUNT) -> list[Samples]:
    """Seven images or, with padding, seven sequences; in batches of ``size``."""
    generator = torch.Generator().manual_seed(3)
    if case.architecture.family == "llama":
        ids = torch.randint(3, 64, (COUNT, 9), generator=generator)
        lengths = torch.tensor([9, 4, 6, 9, 2, 5, 8])
        labels = ids.roll(-1, dims=1)
        labels[torch.arange(9) >= lengths[:, None] - 1] = IGNORED
        whole = Samples({"input_ids": ids, "use_cache": False}, labels, lengths, 0)
    else:
        side = case.architecture.arguments["img_size"]
        images = torch.randn(COUNT, 3, side, side, generator=generator)
        whole = Samples({"x": images}, torch.arange(COUNT) % 5, None, 0)
    return [_part(whole, begin, begin + size) for begin in range(0, COUNT, size)]


def _part(whole: Samples, begin: int, end: int) -> Samples:
    inputs = {
        name: value[begin:end] if isinstance(value, torch.Tensor) else value
        for name, value in whole.inputs.items()
    }
    lengths = None if whole.lengths is None else whole.lengths[begin:end]
    return Samples(inputs, whole.labels[begin:end], lengths, begin)


def outputs_by_hand(model: nn.Module, layout: Layout, samples: Samples) -> list[torch.Tensor]:
    """Block outputs of every sample, (tokens, channels) each, without padding."""
    found: list[torch.Tensor] = []
    blocks = executed_blocks(model, layout)
    with (
        torch.no_grad(),
        listening([b.module for b in blocks], lambda _, x, y: found.append(y.flatten(1, -2))),
    ):
        answer(model, samples)
    return found


def run(case: TinyCase, model: nn.Module, layout: Layout, size: int, **how: Any) -> Observation:
    chosen: dict[str, Any] = {"depths": (0, layout.num_instances - 1), "tokens": None, "seed": 0}
    blocks = executed_blocks(model, layout)
    return observe(model, blocks, samples_of(case, size=size), CPU, **{**chosen, **how})


@pytest.mark.sample(3)
@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_gradients_are_those_of_an_untied_twin(case: TinyCase) -> None:
    changes = {"start": "average"} if case.name != "swin" else {}
    model, layout = scaled(case, **changes)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = measure_gradients(model, case.family, layout, samples_of(case, size=3), CPU)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    # It shares what is outside of blocks with the model.
    twin = untie(model, case.family).requires_grad_(True)
    (whole,) = samples_of(case)
    loss, counted = answer(twin, whole)
    (loss / counted.num_targets).backward()
    seen = 0
    for tied in found:
        parts = [own_gradients(twin, part.block.path, case) for part in tied.instances]
        for part, own in zip(tied.instances, parts, strict=True):
            torch.testing.assert_close(part.norm, float(own.norm()), rtol=1e-5, atol=1e-7)
        total = torch.stack(parts).sum(0)
        torch.testing.assert_close(tied.norm, float(total.norm()), rtol=1e-5, atol=1e-7)
        cosine = float(F.cosine_similarity(parts[0], total, dim=0))
        assert tied.instances[0].cosine == pytest.approx(cosine, abs=1e-5)
        seen += len(parts)
    assert seen == layout.num_instances
    assert len(found) == sum(stage.depth for stage in layout.stages)


def own_gradients(twin: nn.Module, path: str, case: TinyCase) -> torch.Tensor:
    """Gradients of the weights that a block of the untied twin has in the place of tied ones."""
    block = twin.get_submodule(path)
    tied = case.family.anatomy(block).tied
    kept = [
        p.grad.double().flatten()
        for key, p in block.named_parameters()
        if key.startswith(tuple(f"{part}." for part in tied))
        and ".adapter." not in key
        and not key.endswith(".gate")
        and p.grad is not None
    ]
    return torch.cat(kept)


def test_gradients_of_tied_tensors_are_autograds_whatever_the_number_of_passes() -> None:
    case = tiny_case("vit")
    model, layout = scaled(case)
    (whole,) = samples_of(case)
    loss, counted = answer(model.requires_grad_(True), whole)
    (loss / counted.num_targets).backward()
    ticks: list[tuple[int, int]] = []
    found = measure_gradients(
        model, case.family, layout, [whole], CPU, max_bytes=1, tick=lambda *at: ticks.append(at)
    )
    assert ticks == [(1, 3), (2, 3), (3, 3)]
    for tied in found:
        block = model.get_submodule(tied.instances[0].block.path)
        cores = [p for key, p in block.named_parameters() if "core" in key or "attn" in key]
        squares = sum(float(p.grad.double().square().sum()) for p in cores if p.grad is not None)
        assert tied.norm == pytest.approx(squares**0.5, rel=1e-5)


def test_copied_weights_are_sets_of_their_own() -> None:
    case = tiny_case("vit")
    model, layout = scaled(case, shared={"scope": "all", "weights": "copied"})
    found = measure_gradients(model, case.family, layout, samples_of(case), CPU)
    assert [len(tied.instances) for tied in found] == [1] * 6
    assert all(tied.norm == tied.instances[0].norm for tied in found)


def cka(x: Any, y: Any) -> float:
    """Kornblith's formula on all samples at once."""
    x, y = (np.asarray(one, np.float64) for one in (x, y))
    x, y = x - x.mean(0), y - y.mean(0)
    cross = np.linalg.norm(y.T @ x) ** 2
    return float(cross / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y)))


@pytest.mark.parametrize("case", TWO, indirect=True)
def test_features_are_means_over_tokens_in_batches_of_any_size(case: TinyCase) -> None:
    model, layout = scaled(case)
    (whole,) = samples_of(case)
    by_hand = outputs_by_hand(model, layout, whole)
    lengths = [by_hand[0].shape[1]] * COUNT if whole.lengths is None else whole.lengths.tolist()
    for size in (3, COUNT):
        found = run(case, model, layout, size).features
        assert len(found) == len(by_hand) == layout.num_instances
        for mine, theirs in zip(found, by_hand, strict=True):
            counts = [theirs.shape[1]] * COUNT if whole.lengths is None else lengths
            means = torch.stack([theirs[at, :n].mean(0) for at, n in enumerate(counts)])
            torch.testing.assert_close(mine, means, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "llama_tied"])
def test_sampled_tokens_are_tokens_of_their_sample(name: str) -> None:
    case = tiny_case(name)
    model, layout = scaled(case)
    (whole,) = samples_of(case)
    by_hand = outputs_by_hand(model, layout, whole)
    found = run(case, model, layout, COUNT, tokens=2).features
    again = run(case, model, layout, 2, tokens=2).features
    other = run(case, model, layout, COUNT, tokens=2, seed=1).features
    for mine, same, theirs in zip(found, again, by_hand, strict=True):
        assert mine.shape == (2 * COUNT, 32)
        torch.testing.assert_close(mine, same, rtol=1e-4, atol=1e-5)
        for row, values in enumerate(mine):
            at = row // 2
            length = theirs.shape[1] if whole.lengths is None else int(whole.lengths[at])
            assert (theirs[at, :length] == values).all(dim=1).any()
    assert not torch.equal(found[0], other[0])
    with pytest.raises(OptionError, match="--cka-tokens is 99"):
        run(case, model, layout, COUNT, tokens=99)


@pytest.mark.parametrize("case", TWO, indirect=True)
def test_histograms_have_every_value_once(case: TinyCase) -> None:
    model, layout = scaled(case)
    (whole,) = samples_of(case)
    by_hand = outputs_by_hand(model, layout, whole)
    first, last = run(case, model, layout, 3).histograms
    for found, theirs in ((first, by_hand[0]), (last, by_hand[-1])):
        lengths = [theirs.shape[1]] * COUNT if whole.lengths is None else whole.lengths.tolist()
        values = torch.cat([theirs[at, :n].flatten() for at, n in enumerate(lengths)]).numpy()
        assert sum(found.counts) == found.num_values == values.size
        expected = np.histogram(values.clip(-CLIP, CLIP), NUM_BINS, (-CLIP, CLIP))[0]
        # In batches of another size rounding may carry a value over an edge.
        assert np.abs(np.array(found.counts) - expected).sum() <= 4
        assert found.mean == pytest.approx(values.mean(dtype=np.float64), abs=1e-5)
        assert found.std == pytest.approx(values.std(dtype=np.float64), rel=1e-4)


def test_values_beyond_the_clip_are_in_the_outer_bins() -> None:
    found = HistogramSum()
    found.add(torch.tensor([[-11.0, -10.0, 0.0], [9.99, 10.0, 1e6]]))
    found.add(torch.tensor([10.01]))
    result = found.result()
    assert (result.counts[0], result.counts[NUM_BINS // 2], result.counts[-1]) == (2, 1, 4)
    assert (result.num_values, result.num_beyond) == (7, 3)


def test_depths_are_evenly_spaced() -> None:
    assert sampled_depths(24, 4) == (0, 8, 15, 23)
    assert sampled_depths(4, 6) == (0, 1, 2, 3)
    assert sampled_depths(12, 1) == (11,)


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_a_skipped_block_is_a_model_without_it(case: TinyCase) -> None:
    model, layout = scaled(case)
    batches = samples_of(case)
    for block in executed_blocks(model, layout)[::3]:
        with skipped(block.module):
            found = score(model, batches, CPU)
        container, _, position = block.path.rpartition(".")
        expected = score(rebuilt(model, container, int(position)), batches, CPU)
        assert found == expected
    assert score(model, batches, CPU) != found


def rebuilt(model: nn.Module, container: str, left_out: int) -> nn.Module:
    """A copy of the model in which one block does not exist."""
    made: Any = copy.deepcopy(model)
    blocks = list(made.get_submodule(container).children())
    kept = [block for at, block in enumerate(blocks) if at != left_out]
    if container == "model.layers":
        made.model.layers = nn.ModuleList(kept)
        made.config.num_hidden_layers = len(kept)
        types = vars(made.config).get("layer_types")
        if types:
            made.config.layer_types = [t for at, t in enumerate(types) if at != left_out]
    else:
        made.set_submodule(container, nn.Sequential(*kept))
    return made


@pytest.mark.parametrize("case", ["vit", "llama_tied"], indirect=True)
def test_without_adapters_is_a_model_whose_adapters_are_zero(case: TinyCase) -> None:
    model, layout = scaled(case)
    batches = samples_of(case)
    whole = score(model, batches, CPU)
    for block in executed_blocks(model, layout)[:2]:
        with without_adapters(block.module):
            found = score(model, batches, CPU)
        zeroed = copy.deepcopy(model)
        for key, parameter in zeroed.get_submodule(block.path).named_parameters():
            if ".adapter.up" in key:
                parameter.data.zero_()
        assert found.loss == pytest.approx(score(zeroed, batches, CPU).loss, rel=1e-6)
        assert found != whole
        assert score(model, batches, CPU) == whole


@pytest.mark.parametrize("case", NAMES, indirect=True)
def test_ratios_are_norms_of_what_is_added(case: TinyCase) -> None:
    start = {"start": "average"} if case.name != "swin" else {}
    adapter = {"dim": 4, "targets": "all-linear", "instances": "new"}
    model, layout = scaled(case, adapter=adapter, **start)
    found = run(case, model, layout, 3).ratios
    (whole,) = samples_of(case)
    blocks = [block for block in executed_blocks(model, layout) if block.slot.ordinal > 0]
    linears = [(block, *one) for block in blocks for one in adapted_linears(block.module)]
    assert [(r.block.path, r.linear) for r in found] == [(b.path, path) for b, path, _ in linears]
    inputs: list[torch.Tensor] = []
    with (
        torch.no_grad(),
        listening([m for *_, m in linears], lambda _, x, y: inputs.append(x)),
    ):
        answer(model, whole)
        for ratio, (_, _, module), x in zip(found, linears, inputs, strict=True):
            ratio_by_hand = mean_ratio(module, x, whole)
            assert ratio.ratio == pytest.approx(ratio_by_hand, rel=1e-4)
            assert (ratio.gate is None) == (module.gate is None)


def mean_ratio(module: Any, x: torch.Tensor, samples: Samples) -> float:
    """Swin's windows of one sample lie one after another."""
    per_sample: Sequence[torch.Tensor] = x.chunk(len(samples))
    values = []
    for at, own in enumerate(per_sample):
        kept = own.flatten(0, -2)
        if samples.lengths is not None:
            kept = kept[: int(samples.lengths[at])]
        core = module.core(kept)
        values.append(float((module.adapter.add_to(core, kept) - core).norm() / core.norm()))
    return sum(values) / len(values)
