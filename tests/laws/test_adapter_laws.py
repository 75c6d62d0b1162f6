"""The laws that every kind of adapter obeys; the cases come from the table."""

from collections.abc import Mapping
from typing import Any, Final

import pytest
import torch
from torch import nn

from scalenet_cli.adapters import ADAPTERS
from scalenet_cli.adapters.base import (
    Adapter,
    CannotBeFolded,
    Constant,
    Normal,
    Site,
    linear_site,
)
from scalenet_cli.families import FAMILIES
from scalenet_cli.plan.schema import ADAPTER_PLANS, NoAdapterPlan
from tests.laws.oracle import RUNNERS
from tests.models import ARCHITECTURES

IN, OUT = 12, 10
# Plan keys of one small adapter of each kind; several where they decide about a law.
CASES: Final[Mapping[str, tuple[dict[str, Any], ...]]] = {
    "parallel": tuple({"dim": 3, "activation": name} for name in ("gelu", "relu", "silu")),
    "lora": ({"dim": 3},),
}
every_adapter = pytest.mark.parametrize(
    ("name", "settings"),
    [(name, settings) for name in ADAPTERS for settings in CASES.get(name, ({},))],
)


def test_every_entry_of_every_table_has_a_law_case() -> None:
    assert {*CASES} == {*ADAPTERS}
    assert {case.family for case in ARCHITECTURES.values()} == {*FAMILIES}
    assert {*RUNNERS} == {*FAMILIES}


def test_plan_classes_and_kinds_have_the_same_names() -> None:
    kinds = {name for name, plan in ADAPTER_PLANS.items() if plan is not NoAdapterPlan}
    assert kinds == {*ADAPTERS}
    assert all(plan.model_fields["type"].default == name for name, plan in ADAPTER_PLANS.items())


def built(name: str, settings: dict[str, Any], dtype: torch.dtype = torch.float32) -> Adapter:
    """An adapter of that kind in its initial state, beside a Linear of IN to OUT features."""
    kind = ADAPTERS[name]
    core = nn.Linear(IN, OUT, dtype=dtype)
    module = core if kind.sits_beside == "linear" else nn.Sequential(core)
    site = linear_site(core)
    plan = ADAPTER_PLANS[name].model_validate({"type": name, **settings})
    adapter = kind.build(Site(module, site.in_features, site.out_features, dtype), plan)
    assert all(parameter.is_meta for parameter in adapter.parameters())
    adapter.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for key, parameter in adapter.named_parameters():
            match adapter.initial_values()[key]:
                case Constant(value):
                    parameter.fill_(value)
                case Normal(std):
                    parameter.normal_(0.0, std)
    return adapter


def randomised(adapter: Adapter) -> Adapter:
    """With values of a trained adapter."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.normal_()
    return adapter


@every_adapter
def test_every_tensor_has_an_initial_value(name: str, settings: dict[str, Any]) -> None:
    adapter = built(name, settings, torch.float64)
    assert {*adapter.initial_values()} == {key for key, _ in adapter.named_parameters()}
    assert {parameter.dtype for parameter in adapter.parameters()} == {torch.float64}


@every_adapter
def test_a_fresh_adjustment_is_exactly_zero_and_can_learn(
    name: str, settings: dict[str, Any]
) -> None:
    adapter, x, y = built(name, settings), torch.randn(2, 5, IN), torch.randn(2, 5, OUT)
    answer = adapter.add_to(y, x)
    assert torch.equal(answer, y)
    answer.square().sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in adapter.parameters())


@every_adapter
def test_sums_are_those_of_the_adjustment(name: str, settings: dict[str, Any]) -> None:
    adapter, x = randomised(built(name, settings)), torch.randn(2, 5, IN)
    core, y = nn.Linear(IN, OUT), torch.randn(2, 5, OUT)
    before = y.clone()
    assert torch.allclose(adapter.add_to(y, x), y + adapter(x), atol=1e-4)
    assert torch.equal(y, before)
    assert torch.allclose(adapter.beside(core, x), core(x) + adapter(x), atol=1e-4)


@every_adapter
def test_what_folds_computes_the_same_and_what_does_not_says_why(
    name: str, settings: dict[str, Any]
) -> None:
    adapter, x = randomised(built(name, settings)).double(), torch.randn(2, 5, IN).double()
    with torch.no_grad():
        delta = adapter.fold()
    if isinstance(delta, CannotBeFolded):
        assert delta.reason
        assert delta.hint
        return
    assert delta.dtype == torch.float64
    assert torch.allclose(nn.functional.linear(x, delta), adapter(x))
    norm = adapter.weight_norm()
    assert norm is None or norm == pytest.approx(float(torch.linalg.matrix_norm(delta)))
