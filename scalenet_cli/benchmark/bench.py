"""``scalenet bench``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from scalenet_cli.benchmark.report import BenchReport
from scalenet_cli.bundle.read import bundle_folder, is_bundle, read_manifest
from scalenet_cli.errors import ArchitectureMismatch, OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.load import load_plan
from scalenet_cli.training.world import require_single

if TYPE_CHECKING:
    from scalenet_cli.models.describe import Described
    from scalenet_cli.plan.load import PlanDocument
    from scalenet_cli.plan.schema import ExpansionPlan

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]
Pass = Literal["inference", "training"]
Progress = Callable[[Pass, int, int], None]

BOTH: Final[tuple[Pass, ...]] = ("inference", "training")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How to measure: on what, how often, with which batch.

    Without ``batch_size`` and ``input_size`` the device and the model decide; without ``threads``
    PyTorch does.
    """

    batch_size: int | None = None
    input_size: int | None = None
    repeats: int = 10
    warmup: int = 3
    device: Device = "auto"
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = False
    passes: tuple[Pass, ...] = BOTH
    threads: int | None = None

    def __post_init__(self) -> None:
        amounts = {
            "batch_size": self.batch_size,
            "input_size": self.input_size,
            "repeats": self.repeats,
            "threads": self.threads,
        }
        for name, value in amounts.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}, and has to be at least 1")
        if not self.passes:
            raise OptionError("no pass is left to measure")


def bench(
    target: str,
    *,
    plan: str | None = None,
    how: BenchOptions | None = None,
    options: SourceOptions | None = None,
    progress: Progress | None = None,
) -> BenchReport:
    """Time and memory of inference and of a training step, for variants of one model in turn.

    The variants are the base, the scaled model, the floor (scaled, without adapters) and an untied
    model of the same depth. A target that is no bundle and has no plan is measured alone. No
    weights are read: random ones cost the same.

    Raises:
        ScalenetError: the target, the plan or an option cannot be used, or memory is too small.
    """
    how, options = how or BenchOptions(), options or SourceOptions()
    require_single("bench")
    document = load_plan(plan) if plan is not None else None
    import torch

    from scalenet_cli.benchmark.session import Setup, run_session
    from scalenet_cli.training.devices import find_device

    device = find_device(how.device)
    described = _describe(target, options, document, how.input_size)
    if how.channels_last and described.family.input_unit != "pixels":
        raise OptionError("--channels-last is for image models", where=target)
    forked = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=forked), _threads(how.threads):
        torch.manual_seed(options.seed)
        setup = Setup(
            target, plan, described, _plan_of(target, document), how, device, options.seed
        )
        return run_session(setup, progress)


def _describe(
    target: str, options: SourceOptions, document: "PlanDocument | None", size: int | None
) -> "Described":
    from scalenet_cli.models.describe import describe

    try:
        return describe(target, options, document, image_size=size)
    except ArchitectureMismatch as error:
        if size is None:
            raise
        raise OptionError(f"--input-size {size}: {error.fact}", where=target) from None


def _plan_of(target: str, document: "PlanDocument | None") -> "ExpansionPlan | None":
    if document is not None:
        return document.plan
    folder = bundle_folder(Path(target))
    return read_manifest(folder).plan if is_bundle(folder) else None


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
