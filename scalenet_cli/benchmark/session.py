"""One run of ``scalenet bench``: variants on a device, measured in turn, put into a report."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import torch

from scalenet_cli.benchmark.report import (
    BenchReport,
    MemoryReport,
    PassReport,
    RatioReport,
    VariantReport,
)
from scalenet_cli.benchmark.variants import Variant, VariantName, make_variants, materialise
from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family, InputUnit
from scalenet_cli.measure.flops import count_pass
from scalenet_cli.measure.memory import Memory, inference_memory, training_memory, warm_up_allocator
from scalenet_cli.measure.throughput import (
    Step,
    TrainingStep,
    Work,
    inference_step,
    take_turns,
)
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.reports.spread import Spread
from scalenet_cli.tasks import find_task
from scalenet_cli.tasks.requests import BenchRequest
from scalenet_cli.training.compiling import compile_blocks, compiling
from scalenet_cli.training.devices import DTYPES
from scalenet_cli.training.failures import explained
from scalenet_cli.training.precision import set_types

if TYPE_CHECKING:
    from scalenet_cli.benchmark.options import BenchOptions, Pass, Progress


@dataclass(frozen=True, slots=True)
class Setup:
    """What is measured, and how."""

    target: str
    plan_name: str | None
    described: DescribedModel
    plan: ExpansionPlan | None
    how: "BenchOptions"
    device: torch.device
    seed: int

    @property
    def family(self) -> Family:
        """Of all variants."""
        return self.described.family

    @property
    def size(self) -> int:
        """Image side in pixels, or tokens of a sequence."""
        return self.how.input_size or self.family.default_input_size(self.described.model)


# By pass and variant: FLOPs of one sample.
Flops = Mapping["Pass", Mapping[VariantName, int]]


def run_session(setup: Setup, progress: "Progress | None" = None) -> BenchReport:
    """Makes the variants, runs them in turn and reports.

    Raises:
        OptionError: the model does not run at this size, or memory is too small.
    """
    variants, notes = make_variants(setup.described, setup.plan, setup.seed)
    flops, shape = _count(setup, variants)
    unit = setup.family.input_unit
    if unit == "tokens" and setup.size < 2 and "training" in setup.how.passes:
        raise OptionError("--input-size 1: a single token has no next one to be trained on")
    task = find_task(setup.family.task)
    batch_size = setup.how.batch_size or task.bench_batch_size(setup.device.type)
    lower = "--batch-size" if batch_size > 1 else "--input-size, or give --inference-only"
    with explained(memory=f"lower {lower}", worker=f"lower {lower}"), compiling():
        work = _place(setup, variants, batch_size, shape[-1])
        passes = {
            name: _measure(
                setup, name, variants=variants, work=work, flops=flops[name], progress=progress
            )
            for name in setup.how.passes
        }
    return _report(setup, batch_size, unit=unit, passes=passes, notes=notes)


def _report(
    setup: Setup,
    batch_size: int,
    unit: InputUnit,
    passes: "Mapping[Pass, PassReport]",
    notes: Sequence[str],
) -> BenchReport:
    source = setup.described.source
    return BenchReport(
        target=setup.target,
        plan=setup.plan_name,
        family=setup.family.name,
        architecture=setup.described.architecture.name,
        device=setup.device.type,
        device_name=_device_name(setup.device),
        threads=torch.get_num_threads(),
        torch_version=torch.__version__,
        precision=setup.how.precision,
        compiled=setup.how.compile,
        channels_last=setup.how.channels_last,
        batch_size=batch_size,
        input_size=setup.size,
        unit=unit,
        repeats=setup.how.repeats,
        warmup=setup.how.warmup,
        seed=setup.seed,
        inference=passes.get("inference"),
        training=passes.get("training"),
        notes=(*(source.notes if source else ()), *notes),
    )


def _count(setup: Setup, variants: Sequence[Variant]) -> tuple[Flops, torch.Size]:
    """FLOPs, and the shape of the logits of one sample."""
    counts = {
        name: {
            variant.name: count_pass(
                variant.model, setup.family, setup.size, training=name == "training"
            )
            for variant in variants
        }
        for name in setup.how.passes
    }
    flops = {
        name: {variant: found for variant, (found, _) in row.items()}
        for name, row in counts.items()
    }
    _, shape = counts[setup.how.passes[0]]["base"]
    return flops, shape


def _place(setup: Setup, variants: Sequence[Variant], batch_size: int, num_outputs: int) -> Work:
    """All variants on the device, and a batch beside them."""
    for variant in variants:
        materialise(variant, setup.family, setup.device)
        if setup.how.channels_last:
            variant.model.to(memory_format=torch.channels_last)
        if setup.how.compile:
            compile_blocks(variant.model, setup.family)
    warm_up_allocator(setup.device)
    return find_task(setup.family.task).make_bench_batch(
        BenchRequest(
            model=variants[0].model,
            family=setup.family,
            size=setup.size,
            batch_size=batch_size,
            num_outputs=num_outputs,
            device=setup.device,
            autocast=DTYPES.get(setup.how.precision),
            channels_last=setup.how.channels_last,
        )
    )


def _measure(
    setup: Setup,
    name: "Pass",
    variants: Sequence[Variant],
    work: Work,
    flops: Mapping[VariantName, int],
    progress: "Progress | None",
) -> PassReport:
    steps, memory = _warm_up(setup, name, variants, work)
    seconds = take_turns(
        steps,
        setup.device,
        repeats=setup.how.repeats,
        warmup=setup.how.warmup,
        tick=lambda done, total: progress(name, done, total) if progress else None,
    )
    rows = {
        variant.name: _row(
            variant,
            flops[variant.name],
            seconds=seconds[variant.name],
            memory=memory[variant.name],
            batch_size=work.batch_size,
        )
        for variant in variants
    }
    ratios = tuple(_ratio(rows, seconds, *pair) for pair in _pairs(name, rows))
    return PassReport(variants=tuple(rows.values()), ratios=ratios)


def _warm_up(
    setup: Setup, name: "Pass", variants: Sequence[Variant], work: Work
) -> tuple[dict[VariantName, Step], dict[VariantName, Memory]]:
    """A step of every variant, and its bytes, found while it ran for the first time."""
    steps: dict[VariantName, Step] = {}
    memory: dict[VariantName, Memory] = {}
    for variant in variants:
        variant.model.train(name == "training")
        if name == "training":
            set_types(variant.model, work.autocast)
            training = TrainingStep(variant.model, work)
            memory[variant.name] = training_memory(training, setup.device)
            steps[variant.name] = training
        else:
            forward = inference_step(variant.model, work)
            memory[variant.name] = inference_memory(variant.model, forward, setup.device)
            steps[variant.name] = forward
    return steps, memory


def _pairs(
    name: "Pass", rows: Mapping[VariantName, VariantReport]
) -> tuple[tuple[VariantName, VariantName], ...]:
    """Which variant is divided by which."""
    if name == "inference":
        return tuple((variant, "base") for variant in rows if variant != "base")
    order: tuple[VariantName, ...] = ("floor", "untied", "base")
    return tuple(("scaled", other) for other in order if other in rows and "scaled" in rows)


def _row(
    variant: Variant, flops: int, seconds: Sequence[float], memory: Memory, batch_size: int
) -> VariantReport:
    parameters = list(variant.model.parameters())
    return VariantReport(
        name=variant.name,
        stored=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops=flops,
        seconds=_spread(seconds),
        samples_per_second=_spread([batch_size / value for value in seconds]),
        memory=MemoryReport(
            parameter_bytes=memory.parameters,
            buffer_bytes=memory.buffers,
            gradient_bytes=memory.gradients,
            optimizer_bytes=memory.optimizer,
            saved_activation_bytes=memory.saved_activations,
            accounted_bytes=memory.accounted,
            peak_bytes=memory.peak,
        ),
    )


def _ratio(
    rows: Mapping[VariantName, VariantReport],
    seconds: Mapping[VariantName, Sequence[float]],
    variant: VariantName,
    reference: VariantName,
) -> RatioReport:
    one, other = rows[variant], rows[reference]
    rounds = zip(seconds[variant], seconds[reference], strict=True)
    return RatioReport(
        variant=variant,
        reference=reference,
        time=_spread([mine / theirs for mine, theirs in rounds]),
        flops=one.flops / other.flops,
        memory=one.memory.total_bytes / other.memory.total_bytes,
    )


def _spread(values: Sequence[float]) -> Spread:
    return Spread(median=median(values), min=min(values), max=max(values))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
