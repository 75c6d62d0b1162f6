"""The Swin description below a host's root."""

import pytest
import torch
from torch import nn

from scalenet_cli.families.prefixed import PrefixedBlocks
from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.surgery import expand
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.values import compute_value
from tests.laws.building import make_plan
from tests.models import TinyCase, tiny_case

GROUPS = (("neck.*", "head"),)


class Host(nn.Module):
    """A backbone, and something behind it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.neck = backbone, nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.neck(self.backbone(x))


def host_of(case: TinyCase) -> Host:
    torch.manual_seed(3)
    return Host(case.model).eval()


def test_a_swin_inside_a_host_is_scaled_as_a_swin_alone() -> None:
    case = tiny_case("swin")
    host, blocks = host_of(case), PrefixedBlocks(case.family, "backbone.", GROUPS)
    plan = make_plan(case, start="identity", adapter={"dim": 4, "targets": "all-linear"})
    alone = expand(
        case.model, resolve_layout(plan, stage_shapes(case.family, case.model)), plan, case.family
    )
    found = expand(host, resolve_layout(plan, stage_shapes(blocks, host)), plan, blocks)

    assert [*found.owned] == [f"backbone.{key}" for key in alone.owned]
    inside = {f"backbone.{k}": tuple(f"backbone.{a}" for a in t) for k, t in alone.ties.items()}
    assert dict(found.ties) == inside
    groups = {f"backbone.{key}": group for key, group in alone.groups.items()}
    assert dict(found.groups) == {**groups, "neck.weight": "head", "neck.bias": "head"}
    assert count(found.model) - count(host) == count(alone.model) - count(case.model)

    source = dict(host.named_parameters())
    like = dict(found.model.named_parameters())
    set_parameters(
        found.model,
        {
            key: compute_value(value, key, like[key], seed=0, read=source.__getitem__)
            for key, value in found.owned.items()
        },
    )
    with torch.no_grad():
        assert torch.equal(found.model.eval()(**case.inputs), host(**case.inputs))


def test_a_prefix_ends_with_a_dot() -> None:
    with pytest.raises(ValueError, match="no dot"):
        PrefixedBlocks(tiny_case("swin").family, "backbone")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
