"""The surgery of one expansion, planned on a model without weights. Imports torch."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scalenet_cli.bundle.tensor_files import ByteSource, Computed
from scalenet_cli.families.sources import Source
from scalenet_cli.families.sources.tensors import TensorSpec, spec_of
from scalenet_cli.measure.flops import count_flops
from scalenet_cli.measure.params import count_parameters
from scalenet_cli.models.describe import DescribedModel, build_base, scale
from scalenet_cli.models.start_notes import start_notes
from scalenet_cli.models.target import Target
from scalenet_cli.plan.load import PlanDocument
from scalenet_cli.reports.base import FlopReport, ParameterReport
from scalenet_cli.surgery import Expansion
from scalenet_cli.surgery.values import Copied, compute_value


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedSurgery:
    """A scaled model without weights, its numbers, and the tensors of both parts of a bundle."""

    described: DescribedModel
    expansion: Expansion
    parameters: ParameterReport
    flops: FlopReport
    base: Mapping[str, TensorSpec]
    owned: Mapping[str, TensorSpec]
    notes: tuple[str, ...]

    @property
    def trained_bytes(self) -> int:
        """Bytes of the tensors that the plan trains."""
        return sum(
            parameter.numel() * parameter.element_size()
            for key, parameter in self.described.model.named_parameters()
            if self.described.groups[key] in self.described.train
        )


def plan_surgery(target: Target, document: PlanDocument) -> PlannedSurgery:
    """Everything about the scaled model but its bytes: all that can fail before they are written.

    ``expand`` and ``check`` both go through here, so that they cannot disagree.

    Raises:
        PlanError: the plan does not fit; with file and line.
        ArchitectureMismatch: the source's tensors are not its architecture's.
        CheckpointUnreadable: a file beside the weights cannot be used.
        OptionError: the scaled model's work cannot be counted.
    """
    source, family = target.source, target.family
    assert source is not None
    base = build_base(target)
    described = scale(base, target, document)
    assert described.expansion is not None
    # What cannot be loaded later is refused now, by the name that the user knows.
    beside = source.carried[0].parent if source.carried else Path()
    family.finish(described.model, beside, {path.name for path in source.carried})
    size = family.default_input_size(described.model)
    return PlannedSurgery(
        described=described,
        expansion=described.expansion,
        parameters=count_parameters(
            described.model, described.layout, described.groups, described.train
        ),
        flops=count_flops(described.model, described.layout, family, size),
        base={key: spec_of(parameter, key) for key, parameter in base.named_parameters()},
        owned={
            key: spec_of(parameter, key)
            for key, parameter in described.model.named_parameters()
            if key in described.expansion.owned
        },
        notes=tuple(start_notes(described)),
    )


def owned_tensors(planned: PlannedSurgery, source: Source, seed: int) -> dict[str, ByteSource]:
    """What belongs to instances: copies are streamed from the source, the rest is computed."""
    blank = dict(planned.described.model.named_parameters())
    tensors: dict[str, ByteSource] = {}
    for key, value in planned.expansion.owned.items():
        if isinstance(value, Copied):
            tensors[key] = source.tensors[value.key]
            continue
        compute = partial(
            compute_value,
            value,
            key,
            blank[key],
            seed=seed,
            read=lambda name: source.tensors[name].read(),
        )
        tensors[key] = Computed(planned.owned[key], compute)
    return tensors
