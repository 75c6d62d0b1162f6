"""The report of a diagnosis, made of what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scalenet_cli.diagnosis.report import (
    AblationReport,
    AdapterReport,
    BlockGradient,
    BlockPlace,
    CkaReport,
    DiagnoseReport,
    HistogramReport,
    InstanceGradient,
    ModelReport,
    ScoreReport,
)
from scalenet_cli.measure.activations import CLIP, Histogram, sampled_depths
from scalenet_cli.measure.cka import compare_features
from scalenet_cli.measure.diagnosed_model import DiagnosedModel
from scalenet_cli.measure.gradients import TiedGradient
from scalenet_cli.measure.model_outputs import ExecutedBlock, Score, executed_blocks
from scalenet_cli.measure.observation import Observation
from scalenet_cli.tasks import find_task
from scalenet_cli.version import TOOL

if TYPE_CHECKING:
    import torch

    from scalenet_cli.tasks.requests import Diagnosis


@dataclass(frozen=True, slots=True)
class Seen:
    """What was measured of one model; only of the target, what it is worth in part."""

    subject: DiagnosedModel
    observation: Observation
    gradients: tuple[TiedGradient, ...]
    ablations: tuple[AblationReport, ...]


def make_report(
    work: "Diagnosis", seen: Seen, other: Seen | None, device: "torch.device"
) -> DiagnoseReport:
    """Everything that was measured, and the comparison of both models' blocks."""
    compared = seen if other is None else other
    names = short_names(seen.subject.name, compared.subject.name)
    features = seen.observation.features
    cka = compare_features(features, compared.observation.features)
    subject = seen.subject
    return DiagnoseReport(
        tool=TOOL,
        data=subject.place,
        num_samples=subject.num_samples,
        num_targets=seen.observation.score.num_targets,
        metric=find_task(work.task).metrics[0].name,
        clip=CLIP,
        device=device.type,
        batch_size=max(map(len, subject.batches)),
        seed=work.options.seed,
        preparation=dict(subject.preparation),
        model=_model(seen, names[0], work),
        against=None if other is None else _model(other, names[1], work),
        adapters=tuple(
            AdapterReport(**place_of(one.block), linear=one.linear, ratio=one.ratio, gate=one.gate)
            for one in seen.observation.ratios
        ),
        ablations=seen.ablations,
        cka=CkaReport(
            against=compared.subject.name,
            num_rows=len(features[0]),
            tokens=work.how.cka_tokens,
            linear=cka.linear,
            unbiased=cka.unbiased,
        ),
        files=(),
        notes=tuple(_notes(work, seen, other)),
    )


def _notes(work: "Diagnosis", seen: Seen, other: Seen | None) -> list[str]:
    notes = [*seen.subject.notes, *(other.subject.notes if other is not None else ())]
    if seen.subject.num_samples < work.how.limit:
        notes.append(f"the data have {seen.subject.num_samples} samples, fewer than --limit")
    if work.how.skip == "new" and seen.subject.layout.num_new == 0:
        notes.append("the target has no new instances: --skip all skips pretrained ones")
    return notes


def short_names(one: str, other: str) -> tuple[str, str]:
    """The ends of two paths, as long as it takes to tell them apart.

    >>> short_names("runs/a/best", "runs/b/best")
    ('a/best', 'b/best')
    """
    parts = [Path(target).parts or (target,) for target in (one, other)]
    for count in range(1, max(map(len, parts)) + 1):
        names = "/".join(parts[0][-count:]), "/".join(parts[1][-count:])
        if names[0] != names[1]:
            return names
    return parts[0][-1], parts[1][-1]


def _model(seen: Seen, name: str, work: "Diagnosis") -> ModelReport:
    subject = seen.subject
    blocks = executed_blocks(subject.model, subject.layout)
    depths = sampled_depths(len(blocks), work.how.depths)
    return ModelReport(
        target=subject.name,
        name=name,
        architecture=subject.architecture,
        score=score_of(seen.observation.score, work),
        blocks=tuple(BlockPlace(**place_of(block)) for block in blocks),
        gradients=tuple(_gradient(one) for one in seen.gradients),
        histograms=tuple(
            _histogram(blocks[depth], depth, one)
            for depth, one in zip(depths, seen.observation.histograms, strict=True)
        ),
    )


def _gradient(found: TiedGradient) -> BlockGradient:
    first = found.instances[0].block
    return BlockGradient(
        stage=first.stage,
        source=first.slot.source,
        norm=found.norm,
        instances=tuple(
            InstanceGradient(**place_of(one.block), norm=one.norm, cosine=one.cosine)
            for one in found.instances
        ),
    )


def _histogram(block: ExecutedBlock, depth: int, found: Histogram) -> HistogramReport:
    return HistogramReport(
        **place_of(block),
        depth=depth,
        counts=found.counts,
        num_values=found.num_values,
        beyond=found.num_beyond / found.num_values,
        mean=found.mean,
        std=found.std,
    )


def place_of(block: ExecutedBlock) -> Mapping[str, int]:
    """The fields of a BlockPlace."""
    slot = block.slot
    return {
        "stage": block.stage,
        "position": slot.position,
        "source": slot.source,
        "ordinal": slot.ordinal,
    }


def score_of(found: Score, work: "Diagnosis") -> ScoreReport:
    """The score in the task's words."""
    names = {metric.name for metric in find_task(work.task).metrics}
    perplexity = found.perplexity if "perplexity" in names else None
    return ScoreReport(loss=found.loss, top1=found.top1, perplexity=perplexity)
