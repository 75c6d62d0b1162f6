"""Plans against stages: what is reused, how deep it becomes, and what is trained."""

from typing import Any

import pytest

from scalenet_cli.errors import PlanError, PlanErrors
from scalenet_cli.plan.layout import StageShape
from scalenet_cli.plan.load import parse_plan
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.plan.train import resolve_train

VIT = (StageShape("blocks", 12, 192),)
SWIN = tuple(
    StageShape(f"layers.{index}.blocks", depth, 96 * 2**index)
    for index, depth in enumerate((2, 2, 6, 2))
)


def plan(**entries: Any) -> ExpansionPlan:
    return ExpansionPlan.model_validate({"version": 1, "mapping": "stack", "factor": 2, **entries})


def depths(chosen: ExpansionPlan, stages: tuple[StageShape, ...]) -> list[int]:
    return [len(stage.instances) for stage in resolve_layout(chosen, stages).stages]


def sources(chosen: ExpansionPlan, stages: tuple[StageShape, ...], stage: int = 0) -> list[int]:
    return [slot.source for slot in resolve_layout(chosen, stages).stages[stage].instances]


def test_default_scope_is_all_of_one_stage_and_the_last_of_several() -> None:
    assert depths(plan(), VIT) == [24]
    assert depths(plan(), SWIN) == [2, 2, 6, 4]
    assert depths(plan(shared={"scope": "last-stage"}), VIT) == [24]
    assert depths(plan(shared={"scope": "all"}), SWIN) == [4, 4, 12, 4]
    assert depths(plan(shared={"scope": {"stages": [0, 2]}}), SWIN) == [4, 2, 12, 2]


def test_blocks_are_numbered_through_the_model() -> None:
    chosen = plan(shared={"scope": {"blocks": [4, 5, 10]}})
    assert depths(chosen, SWIN) == [2, 2, 8, 3]
    assert sources(chosen, SWIN, 2) == [0, 1, 0, 1, 2, 3, 4, 5]
    assert sources(chosen, SWIN, 3) == [0, 0, 1]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ({"factor": 1.5}, 18),
        ({"factor": 3}, 36),
        ({"factor": None, "depth": 18}, 18),
        ({"factor": None, "depth": 13}, 13),
    ],
)
def test_factor_and_depth(entries: dict[str, Any], expected: int) -> None:
    assert depths(plan(**entries), VIT) == [expected]


def test_depth_is_that_of_the_scaled_part() -> None:
    chosen = plan(factor=None, depth=5, shared={"scope": {"blocks": [0, 1, 2]}})
    assert depths(chosen, VIT) == [14]
    assert sources(chosen, VIT)[:6] == [0, 1, 2, 0, 1, 3]


def test_written_out_sources_one_list_or_one_per_stage() -> None:
    flat = plan(mapping={"sources": [0, 1, 0, 1, 1]}, factor=None)
    assert sources(flat, SWIN, 3) == [0, 1, 0, 1, 1]
    nested = plan(
        mapping={"sources": [[1, 0, 1], [0, 0, 1]]},
        factor=None,
        shared={"scope": {"stages": [0, 3]}},
    )
    assert sources(nested, SWIN, 0) == [1, 0, 1]
    assert sources(nested, SWIN, 3) == [0, 0, 1]
    ordinals = [slot.ordinal for slot in resolve_layout(nested, SWIN).stages[0].instances]
    assert ordinals == [0, 0, 1]


def test_several_mistakes_are_reported_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        resolve_layout(plan(shared={"scope": {"stages": [0, 4, 7]}}), SWIN)
    assert str(caught.value).count("error[scope-out-of-range]") == 2


def test_errors_of_resolution_know_file_and_line() -> None:
    document = parse_plan(
        "version: 1\nmapping: stack\nfactor: 2\nshared:\n  scope:\n    stages: [0,\n      9]\n",
        "p.yaml",
    )
    with (
        pytest.raises(PlanError, match=r"p\.yaml:7  shared\.scope\.stages\[1\]"),
        document.locating(),
    ):
        resolve_layout(document.plan, SWIN)


def test_trained_groups() -> None:
    present = {"shared", "norms", "adapters", "embeddings", "head"}
    assert resolve_train(plan(), present) == ("norms", "adapters")
    assert resolve_train(plan(), {*present, "gates"}) == ("norms", "adapters", "gates")
    assert set(resolve_train(plan(train="all"), present)) == present
    assert resolve_train(plan(train=["head", "norms"]), present) == ("norms", "head")
    with pytest.raises(PlanErrors, match="gates"):
        resolve_train(plan(train=["gates"]), present)
