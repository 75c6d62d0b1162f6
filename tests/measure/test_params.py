"""Parameter counts against sums over the real tensors."""

import pytest

from scalenet_cli.measure.params import count_parameters
from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import expand
from tests.laws.building import make_plan
from tests.models import ARCHITECTURES, TinyCase


@pytest.mark.sample(5)
@pytest.mark.parametrize("case", ARCHITECTURES, indirect=True)
@pytest.mark.parametrize("train", [None, "all", ["norms"]])
def test_groups_and_instances_add_up(case: TinyCase, train: object) -> None:
    plan = make_plan(case, start="identity", train=train)
    layout = resolve_layout(plan, stage_shapes(case.family, case.model))
    expansion = expand(case.model, layout, plan, case.family)
    groups = resolve_train(plan, set(expansion.groups.values()))
    report = count_parameters(expansion.model, layout, expansion.groups, groups)

    model = expansion.model
    assert report.stored == sum(p.numel() for p in model.parameters())
    assert report.executed == sum(
        p.numel() for _, p in model.named_parameters(remove_duplicate=False)
    )
    assert sum(report.groups.values()) == report.stored
    assert sum(report.executed_groups.values()) == report.executed
    assert sum(report.trainable_groups.values()) == report.trainable
    in_blocks = sum(row.executed for row in report.instances)
    outside = sum(
        p.numel()
        for key, p in model.named_parameters(remove_duplicate=False)
        if not any(key.startswith(f"{stage.path}.") for stage in layout.stages)
    )
    assert in_blocks + outside == report.executed
    expected = {
        None: {"norms", "adapters", "gates"},
        "all": {g for g, n in report.groups.items() if n},
    }
    names = {group for group, count in report.trainable_groups.items() if count}
    assert names == ({"norms"} if isinstance(train, list) else expected[train])
    # Norms, adapters and gates belong to one instance each; Linears to two.
    owned = sum(p.numel() for key, p in model.named_parameters() if key in expansion.owned)
    base_norms = sum(
        p.numel()
        for key, p in model.named_parameters()
        if expansion.groups[key] == "norms"
        and key not in expansion.owned
        and any(key.startswith(f"{stage.path}.") for stage in layout.stages)
    )
    assert sum(row.own for row in report.instances) == owned + base_norms
