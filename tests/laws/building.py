"""Short ways to expanded models and their bundles, for the laws."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from scalenet_cli.models.describe import stage_shapes
from scalenet_cli.models.expand_module import expand_module
from scalenet_cli.plan.load import parse_plan
from scalenet_cli.plan.resolve import resolve_layout
from scalenet_cli.plan.schema import ExpansionPlan
from tests.laws.oracle import Sources
from tests.models import TinyCase

SMALL = {"dim": 4}


def make_plan(case: TinyCase, **changes: Any) -> ExpansionPlan:
    """A plan that scales every stage of the case; keyword arguments replace its entries."""
    plan: dict[str, Any] = {
        "version": 1,
        "mapping": "interpolate",
        "factor": 2,
        "shared": {"scope": "all"},
        "adapter": SMALL,
        "start": "copy",
    }
    plan.update(changes)
    return ExpansionPlan.model_validate({k: v for k, v in plan.items() if v is not None})


def make_model(case: TinyCase, **changes: Any) -> nn.Module:
    """The case's model, expanded in memory, in evaluation mode."""
    plan = make_plan(case, **changes)
    return expand_module(case.model, plan, family=case.architecture.family)


def sources_of(case: TinyCase, plan: ExpansionPlan) -> Sources:
    """The blocks that each stage executes under a plan."""
    layout = resolve_layout(plan, stage_shapes(case.family, case.model))
    return [[slot.source for slot in stage.instances] for stage in layout.stages]


def write_source(case: TinyCase, folder: Path) -> Path:
    """The case's model as a folder that its own library would write."""
    folder.mkdir(parents=True)
    if case.architecture.family == "llama":
        case.model.save_pretrained(folder)
        return folder
    arguments = dict(case.architecture.arguments)
    config = {"architecture": case.architecture.name, "model_args": arguments}
    (folder / "config.json").write_text(json.dumps(config))
    save_file(dict(case.model.state_dict()), folder / "model.safetensors")
    return folder


def write_plan(plan: ExpansionPlan, path: Path) -> Path:
    """A plan as a file; JSON is YAML."""
    path.write_text(plan.model_dump_json(exclude_none=True))
    assert parse_plan(path.read_text()).plan == plan
    return path


def randomise_instances(model: nn.Module, base: nn.Module) -> None:
    """Gives everything that ``model`` does not share with ``base`` other values."""
    known = {id(parameter) for parameter in base.parameters()}
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) not in known:
                parameter.add_(torch.randn_like(parameter) * 0.05)
