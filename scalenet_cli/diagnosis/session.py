"""One run of ``scalenet diagnose``: one or two models, all measurements, a report."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.diagnosis.build_report import Seen, make_report, place_of, score_of
from scalenet_cli.diagnosis.progress import Progress
from scalenet_cli.diagnosis.report import AblationReport, DiagnoseReport
from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.measure.ablation import has_adapters, skipped, without_adapters
from scalenet_cli.measure.activations import sampled_depths
from scalenet_cli.measure.diagnosed_model import DiagnosedModel
from scalenet_cli.measure.gradients import measure_gradients
from scalenet_cli.measure.model_outputs import (
    ExecutedBlock,
    Samples,
    executed_blocks,
    require_finite,
    score,
)
from scalenet_cli.measure.observation import observe
from scalenet_cli.tasks import find_task
from scalenet_cli.training.devices import find_device
from scalenet_cli.training.failures import explained

if TYPE_CHECKING:
    import torch

    from scalenet_cli.tasks.requests import Diagnosis

# Nothing varies in one sample.
_LEAST_SAMPLES: Final = 2


def run_diagnosis(work: "Diagnosis", progress: Progress | None) -> DiagnoseReport:
    """Opens, measures and reports; see diagnose."""
    device = find_device(work.how.device)
    opened = find_task(work.task).open_samples
    first = opened(work, work.target)
    if first.num_samples < _LEAST_SAMPLES:
        raise DataUnreadable("a diagnosis needs two samples or more", where=first.place)
    second = None
    if work.against is not None:
        second = opened(work, work.against, held=first.held_bytes)
    if second is not None:
        _require_same_samples(first, second)
    batch_size = max(map(len, first.batches))
    advice = f"use a smaller --batch-size than {batch_size}"
    with explained(memory=advice, worker=advice):
        seen = _measure(work, first, device, progress, alone=True)
        other = None if second is None else _measure(work, second, device, progress, alone=False)
    return make_report(work, seen, other, device)


def _require_same_samples(first: DiagnosedModel, second: DiagnosedModel) -> None:
    """Both models look at the same samples.

    Raises:
        OptionError: images of another size, or another tokenizer.
    """
    size, other = (one.preparation.get("input_size") for one in (first, second))
    if size != other:
        raise OptionError(
            f"{first.name} takes images of {_shown(size)}, but --against {second.name} of "
            f"{_shown(other)}",
            hint="both have to see the same pixels; where a model takes any size, "
            "--model-kwargs img_size=N builds it for another one",
        )
    batches = zip(first.batches, second.batches, strict=False)
    if first.num_samples != second.num_samples or not all(_alike(*pair) for pair in batches):
        raise OptionError(
            f"{first.name} and --against {second.name} do not make the same tokens of the data",
            hint="both have to have the same tokenizer; --tokenizer DIR sets it for both",
        )


def _alike(one: Samples, other: Samples) -> bool:
    """The same number of images, or the same tokens."""
    if one.lengths is None or other.lengths is None:
        return len(one) == len(other)
    mine, theirs = one.inputs["input_ids"], other.inputs["input_ids"]
    return mine.shape == theirs.shape and bool((mine == theirs).all())


def _shown(size: Any) -> str:
    return " x ".join(map(str, size))


def _measure(
    work: "Diagnosis",
    subject: DiagnosedModel,
    device: "torch.device",
    progress: Progress | None,
    *,
    alone: bool,
) -> Seen:
    """``alone`` is the target: its instances are taken away one by one, too."""
    how, model = work.how, subject.model.to(device)
    blocks = executed_blocks(model, subject.layout)
    seen = observe(
        model,
        blocks,
        subject.batches,
        device,
        depths=sampled_depths(len(blocks), how.depths),
        tokens=how.cka_tokens,
        seed=work.options.seed,
        tick=_ticking(progress, f"outputs of {subject.name}"),
    )
    require_finite(seen.score, subject.name)
    gradients = measure_gradients(
        model,
        subject.family,
        layout=subject.layout,
        batches=subject.batches,
        device=device,
        tick=_ticking(progress, f"gradients of {subject.name}"),
    )
    ablations = (
        _ablate(work, subject, blocks=blocks, device=device, progress=progress) if alone else ()
    )
    model.to("cpu")
    return Seen(subject, seen, gradients, ablations)


def _ticking(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    if progress is None:
        return None
    return lambda done, total: progress(name, done, total)


def _ablate(
    work: "Diagnosis",
    subject: DiagnosedModel,
    blocks: tuple[ExecutedBlock, ...],
    device: "torch.device",
    progress: Progress | None,
) -> tuple[AblationReport, ...]:
    """One pass over the samples per instance that is skipped, and per instance with adapters."""
    skip, found = work.how.skip, []
    tick = _ticking(progress, "single instances")
    for done, block in enumerate(blocks, start=1):
        alone = bare = None
        if skip == "all" or (skip == "new" and block.slot.ordinal > 0):
            with skipped(block.module):
                alone = score(subject.model, subject.batches, device)
        if skip != "none" and has_adapters(block.module):
            with without_adapters(block.module):
                bare = score(subject.model, subject.batches, device)
        if alone is not None or bare is not None:
            found.append(
                AblationReport(
                    **place_of(block),
                    skipped=None if alone is None else score_of(alone, work),
                    without_adapters=None if bare is None else score_of(bare, work),
                )
            )
        if tick is not None:
            tick(done, len(blocks))
    return tuple(found)
