"""Surgery on a model that is in memory."""

from typing import Any

from torch import nn

from scalenet_cli.families import family as find_family
from scalenet_cli.models.describe import fit_layout
from scalenet_cli.models.save_pretrained import BundleSaver
from scalenet_cli.plan.load import plan_from_dict
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import expand
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.guard import guard_ties
from scalenet_cli.surgery.values import compute_value


def expand_module(
    model: nn.Module, plan: ExpansionPlan | dict[str, Any], *, family: str, seed: int = 0
) -> nn.Module:
    """A scaled version of a model in memory, which shares its tensors and leaves it as it is.

    Nothing is frozen, because a tensor that both models share cannot be frozen in one of them:
    what the plan trains is for the training loop.

    ``family`` is a key of ``scalenet_cli.families.FAMILIES``.

    Raises:
        PlanError: the plan does not fit the model.
        UnknownArchitecture: no such family, or the model is of another one.
    """
    if not isinstance(plan, ExpansionPlan):
        plan = plan_from_dict(plan).plan
    kind = find_family(family)
    kind.require(model)
    layout = fit_layout(model, plan, kind)
    expansion = expand(model, layout, plan, kind, seed=seed, check=False)
    resolve_train(plan, set(expansion.groups.values()))
    sources = dict(model.named_parameters())
    blank = dict(expansion.model.named_parameters())
    device = next(model.parameters()).device
    values = {
        key: compute_value(value, key, blank[key], seed=seed, read=sources.__getitem__).to(device)
        for key, value in expansion.owned.items()
    }
    set_parameters(expansion.model, values)
    guard_ties(expansion.model, kind)
    kind.save_with(expansion.model, BundleSaver(expansion.model, None))
    return expansion.model
