"""What a loaded model trains, and which of its tensors are one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scalenet_cli import expand_checkpoint, expand_module, load, ties
from scalenet_cli.errors import OptionError
from tests.laws.building import make_model, make_plan, write_plan, write_source
from tests.models import TinyCase, logits_of, tiny_case


def trainable(model: nn.Module) -> set[str]:
    """Every key, also of a tied tensor, whose Parameter requires a gradient."""
    named = model.named_parameters(remove_duplicate=False)
    return {key for key, parameter in named if parameter.requires_grad}


def every_key(model: nn.Module) -> set[str]:
    return {key for key, _ in model.named_parameters(remove_duplicate=False)}


def bundle_of(case: TinyCase, folder: Path, **changes: Any) -> Path:
    plan = write_plan(make_plan(case, **changes), folder / "plan.yaml")
    expand_checkpoint(write_source(case, folder / "source"), plan, folder / "out")
    return folder / "out"


OWN = (".adapter.", ".gate.", "norm")


@pytest.mark.parametrize(
    ("case", "train", "parts"),
    [
        ("vit", None, OWN),
        ("vit", ["adapters", "head"], (".adapter.", "head.")),
        ("llama_tied", None, OWN),
    ],
    indirect=["case"],
)
def test_load_trains_what_the_plan_trains(
    case: TinyCase, train: list[str] | None, parts: tuple[str, ...], tmp_path: Path
) -> None:
    bundle = bundle_of(case, tmp_path, start="identity", train=train)
    model = load(bundle)
    expected = {key for key in every_key(model) if any(part in f"{key}." for part in parts)}
    assert trainable(model) == expected
    if case.name == "llama_tied":
        assert not {"lm_head.weight", "model.embed_tokens.weight"} & trainable(model)
    # An ordinary loop, which knows nothing of groups.
    before = {key: parameter.clone() for key, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    logits_of(model(**case.inputs)).square().mean().backward()
    optimizer.step()
    moved = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
    assert moved
    assert moved <= expected
    assert trainable(load(bundle, train="all", check=False)) == every_key(model)
    assert trainable(load(bundle, train="none", check=False)) == set()


@pytest.mark.parametrize("wrong", ["head", "adapters", "", None, ["head"], True])
def test_train_is_one_of_three_words(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"load knows plan, all, none") as raised:
        load(tmp_path, train=wrong)
    assert raised.value.exit_code == 2


def test_a_model_in_memory_stays_trainable_with_its_copy() -> None:
    """Both share Parameters: to freeze one of them would freeze the other."""
    case = tiny_case("vit")
    plan = make_plan(case, train=["adapters"])
    model = expand_module(case.model, plan, family="vit")
    assert trainable(model) == every_key(model)
    assert trainable(case.model) == every_key(case.model)


def uses(model: nn.Module) -> dict[str, int]:
    """How many keys each tensor has."""
    found = ties(model)
    return {key: 1 + len(found.get(key, ())) for key, _ in model.named_parameters()}


def test_ties_are_found_by_identity() -> None:
    case = tiny_case("vit")
    assert ties(case.model) == {}
    model = make_model(case, factor=3, shared={"scope": {"blocks": [1]}}, adapter={"type": "none"})
    assert ties(model)["blocks.1.mlp.fc1.weight"] == (
        "blocks.2.mlp.fc1.weight",
        "blocks.3.mlp.fc1.weight",
    )
    assert "blocks.0.mlp.fc1.weight" not in ties(model)
    twin = model.blocks[0].mlp.fc1.weight
    model.blocks[4].mlp.fc1.weight.data.copy_(twin)  # equal values are no tie
    assert "blocks.0.mlp.fc1.weight" not in ties(model)
    assert {key for keys in ties(model).values() for key in keys} <= set(model.state_dict())


def averaged(kind: str, model: nn.Module) -> nn.Module:
    """An average of weights with a decay of 0.9 that has seen the model once."""
    if kind == "AveragedModel":
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        average.update_parameters(model)  # the first call copies
        return average
    return ModelEmaV3(model, decay=0.9, exclude_buffers=kind == "ModelEmaV3 without buffers")


@pytest.mark.parametrize("kind", ["AveragedModel", "ModelEmaV3", "ModelEmaV3 without buffers"])
def test_averages_of_tied_tensors(kind: str) -> None:
    """All weights go from 0 to 1, so that an average moves to 0.1, and after n moves to 1 - 0.9^n.

    timm's goes through ``state_dict()``, where a tied tensor is under each of its keys. Should
    timm mend that, docs/python-api.md has to change with this test.
    """
    model = make_model(tiny_case("vit"), factor=3)
    assert set(uses(model).values()) == {1, 3}
    with torch.no_grad():
        torch._foreach_zero_(list(model.parameters()))
    average = averaged(kind, model)
    with torch.no_grad():
        torch._foreach_add_(list(model.parameters()), 1.0)
    update = average.update if kind != "AveragedModel" else average.update_parameters
    update(model)
    for key, parameter in average.module.named_parameters():
        moves = uses(model)[key] if kind == "ModelEmaV3" else 1
        torch.testing.assert_close(parameter, torch.full_like(parameter, 1 - 0.9**moves))
