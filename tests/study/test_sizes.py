"""Baselines find the paper's numbers of blocks by themselves, on models without weights."""

from dataclasses import replace

import pytest

from scalenet_cli.errors import PlanSchema
from scalenet_cli.plan.load import load_plan
from scalenet_cli.plan.load_study import load_study
from scalenet_cli.study.data import open_study_source
from scalenet_cli.study.plans import BASELINES, Target, describe_arm, make_plan
from tests.training.runs import slow


@pytest.mark.parametrize(
    ("name", "baselines"),
    [
        ("deit_tiny", ("stack",)),
        ("swin_tiny", ("swa",)),
        *(slow(name, tuple(BASELINES)) for name in (
            "deit_tiny", "deit_base", "swin_tiny", "swin_small", "swin_base",
        )),
    ],
)  # fmt: skip
def test_a_baseline_has_the_papers_number_of_parameters(
    name: str, baselines: tuple[str, ...]
) -> None:
    document = load_study(f"studies/table1_{name}")
    source = open_study_source(document)
    names = [arm.name for arm in document.study.arms]
    scaled = describe_arm(source, make_plan(document, source, names.index("scalenet"), None))
    target = Target(scaled.layout, sum(p.numel() for p in scaled.model.parameters()))
    for kind in baselines:
        order = names.index(kind)
        assert document.study.arms[order].baseline == kind
        plan = make_plan(document, source, order, target)
        recipe = load_plan(f"paper/table1/{name}_baseline").recipe
        assert recipe is not None
        assert recipe.expect is not None
        described = describe_arm(source, plan)
        stored = sum(p.numel() for p in described.model.parameters())
        assert stored == recipe.expect.stored
        assert described.layout.num_new == recipe.expect.new_blocks
        assert round(stored / 1e6, 2) == recipe.expect.published_millions


def test_where_blocks_are_added_is_said_where_there_are_several_stages() -> None:
    document = load_study("studies/table1_swin_tiny")
    arms = [arm.model_copy(update={"stage": None}) for arm in document.study.arms]
    study = document.study.model_copy(update={"arms": tuple(arms)})
    source = open_study_source(document)
    with pytest.raises(PlanSchema, match="the source has 4 stages"):
        make_plan(replace(document, study=study), source, 2, None)
