"""Parameters: stored once, executed once per pass, trained or not; by group."""

from collections import Counter
from collections.abc import Mapping, Sequence

from torch import nn

from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import GROUPS, Group
from scalenet_cli.reports.base import InstanceParameters, ParameterReport


def count_parameters(
    model: nn.Module, layout: Layout, groups: Mapping[str, Group], train: Sequence[Group]
) -> ParameterReport:
    """Counts by Parameter object: a tied tensor is stored once and executed by every instance.

    ``groups`` names the group of every stored tensor; ``train`` lists the groups to be trained.
    """
    by_parameter = {id(p): groups[key] for key, p in model.named_parameters()}
    stored: Counter[str] = Counter(dict.fromkeys(GROUPS, 0))
    executed: Counter[str] = Counter(dict.fromkeys(GROUPS, 0))
    uses: Counter[int] = Counter()
    for _, parameter in model.named_parameters():
        stored[by_parameter[id(parameter)]] += parameter.numel()
    for _, parameter in model.named_parameters(remove_duplicate=False):
        executed[by_parameter[id(parameter)]] += parameter.numel()
        uses[id(parameter)] += 1
    trainable = {group: stored[group] if group in train else 0 for group in GROUPS}
    return ParameterReport(
        stored=stored.total(),
        executed=executed.total(),
        trainable=sum(trainable.values()),
        groups=dict(stored),
        executed_groups=dict(executed),
        trainable_groups=trainable,
        instances=_instances(model, layout, uses),
    )


def _instances(
    model: nn.Module, layout: Layout, uses: Mapping[int, int]
) -> tuple[InstanceParameters, ...]:
    rows = []
    for index, stage in enumerate(layout.stages):
        for slot in stage.instances:
            block = model.get_submodule(f"{stage.path}.{slot.position}")
            own = sum(p.numel() for p in block.parameters() if uses[id(p)] == 1)
            rows.append(
                InstanceParameters(
                    stage=index,
                    position=slot.position,
                    source=slot.source,
                    ordinal=slot.ordinal,
                    executed=sum(p.numel() for p in block.parameters()),
                    own=own,
                )
            )
    return tuple(rows)
