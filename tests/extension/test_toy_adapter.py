"""Two toy kinds of adapter, one beside a Linear and one beside a whole module, in every part."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import pytest
import torch
from pydantic import Field
from torch import nn

import scalenet_cli.adapters as adapters
from scalenet_cli import (
    BenchOptions,
    CompareOptions,
    EvalOptions,
    Work,
    bench,
    compare,
    diagnose,
    evaluate,
    load,
    save,
)
from scalenet_cli.adapters import ADAPTERS
from scalenet_cli.adapters.base import (
    Adapter,
    AdapterKind,
    CannotBeFolded,
    Constant,
    Normal,
    Site,
)
from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.commands.verify import verify
from scalenet_cli.errors import CannotFold, PlanErrors
from scalenet_cli.measure.ablation import without_adapters
from scalenet_cli.models.load import load_bundle
from scalenet_cli.plan import schema
from scalenet_cli.plan.load import parse_plan
from scalenet_cli.plan.schema import Group
from scalenet_cli.surgery.groups import freeze, group_parameters
from scalenet_cli.surgery.instance import AdjustedLinear, AdjustedModule
from scalenet_cli.surgery.ties import ties
from scalenet_cli.surgery.untie import fold, untie
from tests.laws.building import make_model, make_plan, randomise_instances, write_plan, write_source
from tests.models import TinyCase, logits_of, tiny_case
from tests.training.runs import (
    PLAIN,
    PLAN,
    InterruptAt,
    Interrupted,
    expand_case,
    train,
    write_data,
)

on_each = pytest.mark.parametrize("case", ["vit", "swin", "llama"], indirect=True)


@final
class FullRankPlan(schema.AdapterSettings):
    """A second weight beside a Linear; a key of its own, and no ``dim``."""

    type: Literal["full-rank"] = "full-rank"
    scale: float = Field(1.0, description="factor")


@final
class BranchPlan(schema.AdapterSettings):
    """A bottleneck around a whole MLP or attention."""

    type: Literal["branch"] = "branch"
    width: int = Field(3, description="inner width")


@final
class FullRank(Adapter):
    """``scale * weight @ x``."""

    def __init__(self, site: Site, scale: float) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": "meta", "dtype": site.dtype}
        self.scale = scale
        self.weight = nn.Parameter(torch.empty(site.out_features, site.in_features, **like))

    def initial_values(self) -> Mapping[str, Constant | Normal]:
        return {"weight": Constant(0.0)}

    def fold(self) -> torch.Tensor | CannotBeFolded:
        return self.scale * self.weight.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * nn.functional.linear(x, self.weight)


@final
class Branch(Adapter):
    """``up(relu(down(x)))``."""

    def __init__(self, site: Site, width: int) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": "meta", "dtype": site.dtype, "bias": False}
        self.down = nn.Linear(site.in_features, width, **like)
        self.up = nn.Linear(width, site.out_features, **like)

    def initial_values(self) -> Mapping[str, Constant | Normal]:
        return {"down.weight": Normal(0.1), "up.weight": Constant(0.0)}

    def fold(self) -> torch.Tensor | CannotBeFolded:
        return CannotBeFolded("bends", "keep it")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.up(self.down(x).relu())


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a new adapter needs: a class of keys, a kind, and one line in each table."""
    linear = AdapterKind("linear", lambda site, plan: FullRank(site, plan.scale))
    module = AdapterKind("module", lambda site, plan: Branch(site, plan.width))
    monkeypatch.setitem(schema.ADAPTER_PLANS, "full-rank", FullRankPlan)
    monkeypatch.setitem(schema.ADAPTER_PLANS, "branch", BranchPlan)
    monkeypatch.setitem(ADAPTERS, "full-rank", linear)
    monkeypatch.setitem(ADAPTERS, "branch", module)


def test_both_tables_have_the_same_kinds() -> None:
    assert {*adapters.ADAPTERS} == {*schema.ADAPTER_PLANS} - {"none"}
    for name, plan in schema.ADAPTER_PLANS.items():
        assert plan.model_fields["type"].default == name


def toy(name: str, **settings: object) -> dict[str, object]:
    return {"type": name, **settings}


def test_a_plan_names_the_toys_keys_in_its_errors() -> None:
    text = "version: 1\nmapping: stack\nfactor: 2\nadapter: {type: full-rank, scales: 2}\n"
    with pytest.raises(PlanErrors) as caught:
        parse_plan(text)
    assert "did you mean `scale`?" in str(caught.value.errors[0])
    with pytest.raises(PlanErrors) as caught:
        parse_plan(text.replace("full-rank", "brunch"))
    assert any("did you mean `branch`?" in str(error) for error in caught.value.errors)


@on_each
@pytest.mark.parametrize(
    "adapter",
    [
        toy("full-rank", scale=0.5),
        toy("branch"),
        toy("branch", targets="attention"),
        toy("branch", targets=["mlp", "*attn"], instances="new"),
    ],
    ids=["linear", "mlp", "attention", "both"],
)
def test_a_toy_goes_through_expand_load_verify_a_training_step_and_save(
    case: TinyCase, tmp_path: Path, adapter: dict[str, object]
) -> None:
    source = write_source(case, tmp_path / "source")
    plan = write_plan(make_plan(case, adapter=adapter, start="identity"), tmp_path / "plan.yaml")
    expand_checkpoint(source, plan, tmp_path / "out")
    verify(tmp_path / "out", source=str(source))
    model = load(tmp_path / "out")
    assert torch.equal(case.logits(model), case.logits(case.model))

    groups = load_bundle(tmp_path / "out").groups
    assert "adapters" in groups.values()
    assert all((".adapter." in key) == (group == "adapters") for key, group in groups.items())
    train_adapters(model, case, groups)
    trained = case.logits(model)
    assert not torch.equal(trained, case.logits(case.model))

    save(model, tmp_path / "saved", start=tmp_path / "out")
    assert torch.equal(case.logits(load(tmp_path / "saved")), trained)
    with contextlib.ExitStack() as stack:
        for stage in case.family.stages(model):
            for block in model.get_submodule(stage.path).children():
                stack.enter_context(without_adapters(block))
        assert torch.equal(case.logits(model), case.logits(case.model))
    assert torch.equal(case.logits(model), trained)


def train_adapters(model: nn.Module, case: TinyCase, groups: Mapping[str, Group]) -> None:
    """Two steps, after which every tensor of every adapter has had a gradient."""
    trained = freeze(model, groups, ("adapters",))
    optimizer = torch.optim.SGD(trained.values(), lr=1.0)
    for _ in range(2):
        optimizer.zero_grad()
        logits_of(model(**case.inputs)).square().mean().backward()
        optimizer.step()
    assert all(parameter.grad is not None for parameter in trained.values())


@on_each
@pytest.mark.parametrize("start", ["copy", "average"])
@pytest.mark.parametrize("name", ["full-rank", "branch"])
def test_other_starts_are_as_without_adapters(case: TinyCase, name: str, start: str) -> None:
    model = make_model(case, adapter=toy(name), start=start)
    plain = make_model(case, adapter={"type": "none"}, start=start)
    assert torch.equal(case.logits(model), case.logits(plain))
    assert len(ties(model)) == len(ties(plain)) > 0


def test_norms_inside_a_whole_module_stay_norms() -> None:
    case = tiny_case("vit_variant")
    model = make_model(case, adapter=toy("branch", targets="attention"))
    groups = group_parameters(model, case.family)
    assert groups["blocks.0.attn.core.q_norm.weight"] == "norms"
    assert groups["blocks.0.attn.core.qkv.weight"] == "shared"
    assert groups["blocks.0.attn.adapter.up.weight"] == "adapters"


def test_a_linear_map_folds() -> None:
    case = tiny_case("vit")
    model = make_model(case, adapter=toy("full-rank", scale=0.5), start="average")
    randomise_instances(model, case.model)
    folded = fold(untie(model, case.family))
    assert "AdjustedLinear" not in repr(folded)
    assert torch.allclose(case.logits(folded), case.logits(model), atol=1e-5)


def test_what_cannot_be_folded_says_why() -> None:
    case = tiny_case("vit")
    model = untie(make_model(case, adapter=toy("branch")), case.family)
    with pytest.raises(CannotFold, match=r"the adapter of blocks\.0\.mlp bends"):
        fold(model)


@on_each
@pytest.mark.parametrize("name", ["full-rank", "branch"])
def test_a_plain_module_in_the_place_of_an_adapter_is_called(case: TinyCase, name: str) -> None:
    model = make_model(case, adapter=toy(name), start="identity")
    wrappers = [one for one in model.modules() if isinstance(one, AdjustedLinear | AdjustedModule)]
    assert wrappers
    for wrapper in wrappers:
        wrapper.adapter = Zero()
    assert torch.equal(case.logits(model), case.logits(case.model))
    calls = [one.adapter.calls for one in wrappers if isinstance(one.adapter, Zero)]
    assert calls == [1] * len(wrappers)
    with pytest.raises(CannotFold, match=r"is a Zero, which does not say"):
        fold(untie(model, case.family))


class Zero(nn.Module):
    """Adds nothing, in the shape of what it sits beside; no Adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x.new_zeros(())


def test_all_linear_means_nothing_beside_whole_modules() -> None:
    with pytest.raises(PlanErrors, match="sit beside whole modules"):
        make_model(tiny_case("vit"), adapter=toy("branch", targets="all-linear"))
    with pytest.raises(PlanErrors, match="matches no module of a block"):
        make_model(tiny_case("vit"), adapter=toy("branch", targets=["mlp.fc1"]))


@pytest.mark.parametrize("adapter", [toy("full-rank", scale=0.5), toy("branch")])
def test_a_toy_is_trained_resumed_evaluated_diagnosed_benched_and_compared(
    adapter: dict[str, object], tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", train=16, val=10)
    bundle = expand_case(tiny_case("vit"), tmp_path / "out", adapter=adapter, start="identity")
    recipe = {**PLAIN, "epochs": 2, "save_steps": 1}
    whole = train(bundle, data, tmp_path / "whole", recipe)
    with pytest.raises(Interrupted):
        train(bundle, data, tmp_path / "run", recipe, reporter=InterruptAt(3))
    assert train(bundle, data, tmp_path / "run", recipe, resume=True).last == whole.last

    how = EvalOptions(workers=0, device="cpu")
    assert evaluate(tmp_path / "run" / "last", data, how=how).top1 == whole.last["top1"]
    found = diagnose(tmp_path / "run", data)
    assert len(found.ablations) == len(found.model.blocks) == 6
    assert all(row.without_adapters is not None for row in found.ablations)
    timed = bench(str(bundle), how=BenchOptions(repeats=1, warmup=0, batch_size=2, device="cpu"))
    assert timed.training is not None
    assert {row.name for row in timed.training.variants} == {"base", "scaled", "floor", "untied"}

    source = write_source(tiny_case("vit"), tmp_path / "source")
    study = {
        "version": 1, "source": str(source), "data": {"path": str(data)}, "seeds": [0],
        "recipe": {**recipe, "epochs": 1},
        "arms": [{"name": "toy", "plan": {**PLAN, "adapter": adapter}}],
    }  # fmt: skip
    (tmp_path / "study.yaml").write_text(json.dumps(study))
    options = CompareOptions(device="cpu", work=Work(workers=0))
    found = compare(tmp_path / "study.yaml", tmp_path / "study", options)
    assert found.results is not None
    assert found.results.arms[0].last is not None
