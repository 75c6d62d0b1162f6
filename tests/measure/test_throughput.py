"""What bench reports, against formulas, parameter counts and the autograd graph itself."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from scalenet_cli import BenchOptions, SourceOptions, bench, count_params, flops
from scalenet_cli.benchmark.report import BenchReport, PassReport, RatioReport, VariantReport
from scalenet_cli.benchmark.variants import make_variants, materialise
from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.measure.memory import training_memory
from scalenet_cli.measure.throughput import TrainingStep, Work, take_turns
from scalenet_cli.models.describe import describe
from scalenet_cli.models.target import open_target
from scalenet_cli.plan.load import load_plan
from scalenet_cli.tasks import find_task
from scalenet_cli.tasks.requests import BenchRequest
from tests.conftest import PLAN
from tests.models import ARCHITECTURES

SIZES = dict(ARCHITECTURES["vit"].arguments)
TARGET = "timm:vit_tiny_patch16_224"
OPTIONS = SourceOptions(model_kwargs=SIZES)
QUICK = BenchOptions(batch_size=2, repeats=3, warmup=1, device="cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plan") / "plan.yaml"
    path.write_text(PLAN)
    return str(path)


@pytest.fixture(scope="module")
def report(plan: str) -> BenchReport:
    return bench(TARGET, plan=plan, how=QUICK, options=OPTIONS)


def rows(facts: PassReport | None) -> Mapping[str, VariantReport]:
    assert facts is not None
    return {row.name: row for row in facts.variants}


def ratios(facts: PassReport | None) -> Mapping[tuple[str, str], RatioReport]:
    assert facts is not None
    return {(row.variant, row.reference): row for row in facts.ratios}


def make_batch(model: nn.Module, family: Family, size: int) -> Work:
    request = BenchRequest(
        model=model, family=family, size=size, batch_size=2, num_outputs=5, device=CPU
    )
    return find_task(family.task).make_bench_batch(request)


def test_flops_equal_the_formula(report: BenchReport) -> None:
    tokens, width, dim, depth = 17, 32, 4, 3
    linears = tokens * width * width * 12
    attention = 2 * tokens * tokens * width
    adapters = 2 * tokens * dim * (width + 4 * width)
    patches, head = 16 * 3 * 16 * width, 5 * width
    base = depth * (linears + attention) + patches + head
    floor = 2 * depth * (linears + attention) + patches + head
    scaled = floor + 2 * depth * adapters
    found = {name: row.flops // 2 for name, row in rows(report.inference).items()}
    assert found == {"base": base, "scaled": scaled, "floor": floor, "untied": floor}
    # Backward: two products per trained Linear, one per frozen one; four for the two of attention.
    # Images need no gradient, so that a trained patch embedding has one product and a frozen none.
    frozen = 2 * depth * (linears + 2 * attention) + head
    found = {name: row.flops // 2 for name, row in rows(report.training).items()}
    assert found == {
        "base": base + depth * 2 * (linears + attention) + patches + 2 * head,
        "scaled": scaled + frozen + 2 * depth * 2 * adapters,
        "floor": floor + frozen,
        "untied": floor + 2 * depth * 2 * (linears + attention) + patches + 2 * head,
    }


def test_flops_and_parameters_are_those_of_the_other_commands(
    report: BenchReport, plan: str
) -> None:
    found = rows(report.inference)
    assert found["base"].flops == flops(TARGET, options=OPTIONS).flops
    assert found["scaled"].flops == flops(TARGET, plan=plan, options=OPTIONS).flops
    counts = count_params(TARGET, plan=plan, options=OPTIONS)
    source = count_params(TARGET, options=OPTIONS)
    for name, row in rows(report.training).items():
        memory = row.memory
        assert memory.parameter_bytes == 4 * row.stored
        assert memory.gradient_bytes == 4 * row.trainable
        # AdamW: two moments per element, and a step count per tensor.
        assert 0 < memory.optimizer_bytes - 8 * row.trainable < 4 * 200
        assert (row.stored == row.trainable) == (name in ("base", "untied"))
    found = rows(report.training)
    assert (found["scaled"].stored, found["scaled"].trainable) == (counts.stored, counts.trainable)
    assert found["floor"].trainable == counts.trainable_groups["norms"]
    assert found["base"].trainable == source.stored
    own = counts.executed - counts.executed_groups["adapters"]
    assert found["untied"].stored == own


@pytest.mark.parametrize("kind", ["inference", "training"])
def test_a_report_adds_up(report: BenchReport, kind: str) -> None:
    facts = report.inference if kind == "inference" else report.training
    found = rows(facts)
    assert list(found) == ["base", "scaled", "floor", "untied"]
    for row in found.values():
        assert 0 < row.seconds.min <= row.seconds.median <= row.seconds.max
        assert row.samples_per_second.median == pytest.approx(2 / row.seconds.median)
        memory = row.memory.model_dump()
        assert memory.pop("peak_bytes") is None
        assert memory.pop("accounted_bytes") == sum(memory.values())
        assert (memory["saved_activation_bytes"] > 0) == (kind == "training")
    for (variant, reference), ratio in ratios(facts).items():
        one, other = found[variant], found[reference]
        assert ratio.flops == one.flops / other.flops
        assert ratio.memory == one.memory.accounted_bytes / other.memory.accounted_bytes
        assert one.seconds.min / other.seconds.max <= ratio.time.min <= ratio.time.median
        assert ratio.time.median <= ratio.time.max <= one.seconds.max / other.seconds.min
    expected = {
        "inference": {("scaled", "base"), ("floor", "base"), ("untied", "base")},
        "training": {("scaled", "floor"), ("scaled", "untied"), ("scaled", "base")},
    }
    assert ratios(facts).keys() == expected[kind]


def kept_by_autograd(loss: torch.Tensor, ignored: set[int]) -> int:
    """Bytes of the storages that the nodes of a graph have saved."""
    found, nodes, seen = {}, [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        saved = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
        saved += getattr(node, "saved_tensors", ())
        flat = [t for v in saved for t in (v if isinstance(v, tuple) else (v,))]
        for tensor in (value for value in flat if isinstance(value, torch.Tensor)):
            if tensor.dtype != torch.float64:  # a Python number, such as attention's scale
                found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
    return sum(size for address, size in found.items() if address not in ignored)


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_saved_activations_are_what_autograd_keeps(name: str, plan: str) -> None:
    architecture = ARCHITECTURES[name]
    options = SourceOptions(model_kwargs=dict(architecture.arguments))
    document = load_plan(plan)
    described = describe(open_target(f"timm:{architecture.name}", options), document)
    variants, _ = make_variants(described, document.plan, 0)
    found = {}
    for variant in variants:
        materialise(variant, described.family, CPU)
        size = architecture.arguments["img_size"]
        work = make_batch(variant.model, described.family, size)
        step = TrainingStep(variant.model, work)
        own = [*variant.model.parameters(), *variant.model.buffers()]
        addresses = {tensor.untyped_storage().data_ptr() for tensor in own}
        expected = kept_by_autograd(step.forward(), addresses)
        memory = training_memory(step, CPU)
        found[variant.name] = memory.saved_activations
        assert memory.saved_activations == expected > 0
        assert memory.buffers == sum(b.nbytes for b in variant.model.buffers())
    # What is frozen needs no inputs kept.
    assert found["floor"] < found["untied"]


def test_variants_keep_their_ties_and_untied_has_none(plan: str) -> None:
    document = load_plan(plan)
    described = describe(open_target(TARGET, OPTIONS), document)
    variants, _ = make_variants(described, document.plan, 0)
    for variant in variants:
        materialise(variant, described.family, CPU)
        blocks = variant.model.get_submodule("blocks")
        first, second = (blocks.get_submodule(f"{n}.attn.qkv") for n in (0, 1))
        assert (first.weight is second.weight) == (variant.name in ("scaled", "floor"))


def test_a_step_changes_what_is_trained_and_nothing_else(plan: str) -> None:
    document = load_plan(plan)
    described = describe(open_target(TARGET, OPTIONS), document)
    variants, _ = make_variants(described, document.plan, 0)
    scaled = next(variant for variant in variants if variant.name == "scaled")
    materialise(scaled, described.family, CPU)
    before = {key: value.clone() for key, value in scaled.model.named_parameters()}
    work = make_batch(scaled.model, described.family, 16)
    TrainingStep(scaled.model, work)()
    for key, value in scaled.model.named_parameters():
        assert torch.equal(before[key], value) == (scaled.groups[key] not in ("adapters", "norms"))


def test_rounds_take_turns() -> None:
    ran: list[str] = []
    steps = {name: lambda name=name: ran.append(name) for name in "abc"}
    seconds = take_turns(steps, CPU, repeats=2, warmup=1)
    assert "".join(ran) == "abc" * 3
    assert {name: len(values) for name, values in seconds.items()} == dict.fromkeys("abc", 2)


def test_without_a_plan_only_the_base_is_measured() -> None:
    report = bench(TARGET, how=QUICK, options=OPTIONS)
    assert list(rows(report.inference)) == list(rows(report.training)) == ["base"]
    assert not ratios(report.inference)
    assert not ratios(report.training)
    assert "no plan" in report.notes[-1]


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("mapping: stack\nfactor: 2\nadapter: {type: none}\n", ["base", "scaled", "untied"]),
        ("mapping: stack\nfactor: 1\nadapter: {dim: 4}\n", ["base", "scaled", "floor"]),
    ],
)
def test_a_variant_that_equals_another_is_left_out(
    text: str, names: list[str], tmp_path: Path
) -> None:
    (tmp_path / "plan.yaml").write_text(f"version: 1\n{text}")
    how = BenchOptions(batch_size=1, repeats=1, warmup=0, device="cpu", passes=("training",))
    report = bench(TARGET, plan=str(tmp_path / "plan.yaml"), how=how, options=OPTIONS)
    assert list(rows(report.training)) == names
    assert report.inference is None
    assert "left out" in report.notes[-1]


@pytest.mark.parametrize("amount", ["batch_size", "input_size", "repeats", "threads"])
def test_amounts_are_at_least_one(amount: str) -> None:
    with pytest.raises(OptionError, match=amount):
        BenchOptions(**{amount: 0})
