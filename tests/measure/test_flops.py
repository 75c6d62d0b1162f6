"""Our FLOPs against PyTorch's counter on the real model, and against the paper's models."""

import pytest
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from scalenet_cli import SourceOptions, flops
from scalenet_cli.measure.flops import count_flops, count_pass
from scalenet_cli.measure.throughput import logits_of
from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.models.expand_module import expand_module
from scalenet_cli.plan.resolve import plain_layout, resolve_layout
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.reports.base import FlopReport
from scalenet_cli.surgery import group_parameters
from scalenet_cli.surgery.instance import AdjustedLinear
from tests.laws.building import make_plan
from tests.models import ARCHITECTURES, TinyCase
from tests.training.runs import slow

every_case = pytest.mark.parametrize("case", ARCHITECTURES, indirect=True)
PLAIN = {"type": "none"}


def assert_adds_up(report: FlopReport) -> None:
    assert report.flops == 2 * report.macs
    assert sum(row.flops for row in report.instances) + report.outside_flops == report.flops
    assert all(row.flops > 0 for row in report.instances)


@pytest.mark.sample(3)
@every_case
def test_the_total_equals_the_real_modules_with_fused_attention(case: TinyCase) -> None:
    adapter = {"type": "lora", "dim": 4, "targets": "all-linear", "instances": "new"}
    plan = make_plan(case, adapter=adapter)
    model = expand_module(case.model, plan, family=case.architecture.family)
    size = case.family.default_input_size(model)
    inputs = case.family.example_inputs(model, size, "cpu")
    counter = FlopCounterMode(display=False)
    # PyTorch before 2.12 does not count the CPU's fused kernel; written out it is the same work.
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    kernels = list(SDPBackend.__members__.values()) if fused in flop_registry else [SDPBackend.MATH]
    with torch.no_grad(), sdpa_kernel([k for k in kernels if k != SDPBackend.ERROR]), counter:
        model(**inputs)
    layout = resolve_layout(plan, stage_shapes(case.family, case.model))
    report = count_flops(model, layout, case.family, size)
    assert report.flops == counter.get_total_flops()
    assert report.unit == ("tokens" if case.architecture.family == "llama" else "pixels")
    assert_adds_up(report)
    # `instances: new`: a pretrained occurrence works less than an instance with adapters.
    first, second = (row.flops for row in report.instances[:2])
    assert second > first


@pytest.mark.sample(3)
@every_case
def test_an_instance_works_as_much_as_its_source(case: TinyCase) -> None:
    shapes = stage_shapes(case.family, case.model)
    size = case.family.default_input_size(case.model)
    base = count_flops(case.model, plain_layout(shapes), case.family, size)
    assert_adds_up(base)
    by_source = {(row.stage, row.source): row.flops for row in base.instances}
    plan = make_plan(case, adapter=PLAIN, factor=3)
    model = expand_module(case.model, plan, family=case.architecture.family)
    scaled = count_flops(model, resolve_layout(plan, shapes), case.family, size)
    assert [row.flops for row in scaled.instances] == [
        by_source[row.stage, row.source] for row in scaled.instances
    ]
    assert scaled.outside_flops == base.outside_flops


@pytest.mark.sample(2)
@pytest.mark.parametrize(
    ("name", "recipe", "base_gigamacs", "scaled_gigamacs"),
    [
        ("deit_tiny_patch16_224", "deit_tiny_sharing_only", 1.254, 2.478),
        slow("deit_small_patch16_224", "deit_small_sharing_only", 4.599, 9.140),
        slow("deit_base_patch16_224", "deit_tiny_sharing_only", 17.564, 35.011),
        ("swin_tiny_patch4_window7_224", "swin_tiny_sharing_only", 4.491, 5.192),
        slow("swin_base_patch4_window7_224", "swin_base_sharing_only", 15.431, 16.674),
    ],
)
def test_the_papers_models(
    name: str, recipe: str, base_gigamacs: float, scaled_gigamacs: float
) -> None:
    base = flops(f"timm:{name}")
    scaled = flops(f"timm:{name}", plan=f"paper/table2/{recipe}")
    assert (round(base.macs / 1e9, 3), round(scaled.macs / 1e9, 3)) == (
        base_gigamacs,
        scaled_gigamacs,
    )
    assert_adds_up(scaled)


def test_a_block_of_deit_equals_the_formula() -> None:
    report = flops("timm:deit_tiny_patch16_224")
    tokens, width = 197, 192
    linears = tokens * width * width * (3 + 1 + 4 + 4)
    attention = 2 * tokens * tokens * width
    assert {row.macs for row in report.instances} == {linears + attention}


def test_another_image_size_changes_the_number_of_tokens() -> None:
    report = flops("timm:deit_tiny_patch16_224", input_size=384)
    tokens, width = 577, 192
    expected = tokens * width * width * 12 + 2 * tokens * tokens * width
    assert {row.macs for row in report.instances} == {expected}
    assert report.input_size == 384


def test_model_arguments_reach_the_count() -> None:
    options = SourceOptions(model_kwargs={"depth": 3})
    assert len(flops("timm:deit_tiny_patch16_224", options=options).instances) == 3


@pytest.mark.sample(2)
@pytest.mark.parametrize("case", ["vit", "llama_tied"], indirect=True)
def test_counting_leaves_the_model_as_it_is(case: TinyCase) -> None:
    plan = make_plan(case)
    model = expand_module(case.model, plan, family=case.architecture.family)
    before = {key: id(p) for key, p in model.named_parameters(remove_duplicate=False)}
    size = case.family.default_input_size(model)
    layout = resolve_layout(plan, stage_shapes(case.family, case.model))
    count_flops(model, layout, case.family, size)
    count_pass(model, case.family, size, training=True)
    assert {key: id(p) for key, p in model.named_parameters(remove_duplicate=False)} == before
    assert not any("forward" in vars(module) for module in model.modules())


# By default one of each library's kinds: a plain one, windows, a tied head.
@pytest.mark.sample(3)
@pytest.mark.parametrize(
    "case",
    [name if name in ("vit", "swin", "llama_tied") else slow(name) for name in ARCHITECTURES],
    indirect=True,
)
@pytest.mark.parametrize("train", [slow(GROUPS), ("norms", "adapters")], ids=["all", "default"])
def test_a_training_pass_equals_the_real_one(case: TinyCase, train: tuple[Group, ...]) -> None:
    model = expand_module(case.model, make_plan(case), family=case.architecture.family)
    groups = group_parameters(model, case.family)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(groups[key] in train)
    size = case.family.default_input_size(model)
    inputs = case.family.example_inputs(model, size, "cpu")
    for module in model.modules():
        if isinstance(module, AdjustedLinear):
            # Whoever has a hook is called, so nothing is fused: fused, a bias is multiplied, too.
            module.core.register_forward_hook(lambda *_: None)
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        logits = logits_of(model(**inputs))
        # The next token's loss of a sequence, or a class's of an image.
        rows = logits[:, :-1].flatten(0, 1) if logits.dim() == 3 else logits
        F.cross_entropy(rows, torch.zeros(len(rows), dtype=torch.long)).backward()
    work, shape = count_pass(model, case.family, size, training=True)
    assert work == counter.get_total_flops()
    assert shape[-1] == (64 if case.architecture.family == "llama" else 5)
    # A tied weight gets a gradient from each of its uses.
    forward, _ = count_pass(model, case.family, size, training=False)
    assert (work > 2.7 * forward) == (train == GROUPS)
