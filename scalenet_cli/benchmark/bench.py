"""``scalenet bench``."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scalenet_cli.benchmark.options import BenchOptions, Progress
from scalenet_cli.benchmark.report import BenchReport
from scalenet_cli.errors import ArchitectureMismatch, OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import open_target
from scalenet_cli.plan.load import load_plan
from scalenet_cli.training.world import require_single

if TYPE_CHECKING:
    from scalenet_cli.models.describe import DescribedModel
    from scalenet_cli.plan.load import PlanDocument


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
            target=target, plan_name=plan, described=described, plan=described.plan, how=how,
            device=device, seed=options.seed,
        )  # fmt: skip
        return run_session(setup, progress)


def _describe(
    target: str, options: SourceOptions, document: "PlanDocument | None", size: int | None
) -> "DescribedModel":
    from scalenet_cli.models.describe import describe

    try:
        return describe(open_target(target, options), document, image_size=size)
    except ArchitectureMismatch as error:
        if size is None:
            raise
        raise OptionError(f"--input-size {size}: {error.fact}", where=target) from None


@contextmanager
def _threads(wanted: int | None) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
