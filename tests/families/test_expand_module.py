"""What `expand_module` is given wrongly is refused by name, and never with a KeyError."""

from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from scalenet_cli import expand_module
from scalenet_cli.errors import PlanError, UnknownArchitecture, UnknownBlockTensor
from tests.models import tiny_case

PLAN: Final = {"version": 1, "mapping": "stack", "factor": 2, "adapter": {"dim": 4}}


def _model(name: str) -> Any:
    return tiny_case(name).model


def _gpt2() -> nn.Module:
    return GPT2LMHeadModel(GPT2Config(vocab_size=16, n_embd=8, n_layer=1, n_head=2))


@pytest.mark.parametrize("family", ["nope", "VIT", "", None, ["vit"], 3])
def test_a_family_that_is_not_there(family: Any) -> None:
    with pytest.raises(UnknownArchitecture, match="no family is called"):
        expand_module(_model("vit"), PLAN, family=family)


@pytest.mark.sample(4)
@pytest.mark.parametrize(
    ("make", "family"),
    [
        (lambda: _model("vit"), "swin"),
        (lambda: _model("vit"), "llama"),
        (lambda: _model("swin"), "vit"),
        (lambda: _model("llama"), "vit"),
        (lambda: _model("llama").model, "llama"),
        (lambda: nn.DataParallel(_model("vit")), "vit"),
        (lambda: torch.compile(_model("vit")), "vit"),
        (lambda: nn.Linear(2, 2), "vit"),
        (lambda: type(_model("vit")), "vit"),
        (lambda: None, "swin"),
        (_gpt2, "llama"),
    ],
)
def test_a_model_of_another_family(make: Callable[[], Any], family: str) -> None:
    with pytest.raises(UnknownArchitecture, match=f"the family {family} describes") as raised:
        expand_module(make(), PLAN, family=family)
    assert raised.value.hint


def test_a_model_that_was_scaled_before() -> None:
    with pytest.raises(UnknownBlockTensor, match="has no Linear"):
        expand_module(expand_module(_model("vit"), PLAN, family="vit"), PLAN, family="vit")


def _cycle() -> dict[str, Any]:
    plan: dict[str, Any] = {}
    plan["mapping"] = plan
    return plan


def _deep() -> dict[str, Any]:
    plan: dict[str, Any] = {}
    for _ in range(5000):
        plan = {"mapping": plan}
    return plan


@pytest.mark.parametrize(
    "make",
    [
        lambda: None,
        lambda: "stack",
        lambda: [PLAN],
        lambda: {1: 2},
        lambda: {(1, 2): 3},
        lambda: {**PLAN, "mapping": {1, 2}},
        lambda: {**PLAN, "mapping": "\ud800"},
        lambda: {**PLAN, "factor": float("nan")},
        lambda: {**PLAN, "factor": 10**400},
        lambda: {**PLAN, "adapter": torch.zeros(2)},
        lambda: {**PLAN, "train": 7},
        _cycle,
        _deep,
    ],
)
def test_a_plan_of_wrong_types(make: Callable[[], Any]) -> None:
    with pytest.raises(PlanError):
        expand_module(_model("vit"), make(), family="vit")
