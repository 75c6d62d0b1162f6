"""``scalenet quickstart``: the whole tool on a small real checkpoint, without a download."""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalenet_cli.bundle.read import is_bundle, read_manifest
from scalenet_cli.commands.count import count_params, flops
from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.commands.inspection import InspectReport, inspect
from scalenet_cli.commands.verify import VerifyReport, verify
from scalenet_cli.errors import BundleError, OutputExists
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.measure.new_blocks import NewBlocksReport
from scalenet_cli.plan.recipes import recipes_folder
from scalenet_cli.reports.base import FlopReport, ParameterReport, Report

if TYPE_CHECKING:
    from scalenet_cli.commands.finetune import FinetuneReport
    from scalenet_cli.tasks.image_classification.evaluation.report import EvalReport
    from scalenet_cli.training.loop import Reporter

CHECKPOINT: Final = "fashion_mnist_vit"
DATA: Final = "fashion_mnist"
WORKERS: Final = 2
# Of a trial: so many validation images tell that everything works.
TRIAL_IMAGES: Final = 200


class QuickstartReport(Report):
    """Before and after, the picture and the proof; accuracies in per cent."""

    checkpoint: str
    output: str
    base_parameters: ParameterReport
    base_flops: FlopReport
    num_images: int
    base_top1: float
    parameters: ParameterReport
    flops: FlopReport
    before_top1: float
    after_top1: float
    new_blocks: NewBlocksReport | None
    curve: tuple[tuple[float, float], ...]
    layout: InspectReport
    verification: VerifyReport


def quickstart(
    output: str | Path, *, max_steps: int | None = None, reporter: "Reporter | None" = None
) -> QuickstartReport:
    """Expands the shipped checkpoint, trains and evaluates it; ``output`` becomes a run.

    Its own earlier output is replaced.

    Raises:
        OutputExists: something else is there.
        OutputInUse: another command is writing there.
    """
    output = Path(output)
    _require_own(output)
    with sole_writer(output):
        return _quickstart(output, max_steps, reporter)


def _quickstart(
    output: Path, max_steps: int | None, reporter: "Reporter | None"
) -> QuickstartReport:
    shipped = recipes_folder() / "quickstart"
    checkpoint = shipped / CHECKPOINT
    if _require_own(output):
        shutil.rmtree(output)
    run, evaluated = _train(
        checkpoint, shipped / DATA, output=output, max_steps=max_steps, reporter=reporter
    )
    from scalenet_cli.training.curves import read_metrics

    start = str(output / "start")
    lines = [line for line in read_metrics(output / "metrics.jsonl") if "top1" in line]
    return QuickstartReport(
        checkpoint=checkpoint.name,
        output=str(output),
        base_parameters=count_params(str(checkpoint)),
        base_flops=flops(str(checkpoint)),
        num_images=evaluated.num_images,
        base_top1=evaluated.top1,
        parameters=count_params(start),
        flops=flops(start),
        before_top1=run.before,
        after_top1=run.best,
        new_blocks=run.new_blocks,
        curve=tuple((line["epoch"], line["top1"]) for line in lines),
        layout=inspect(start),
        verification=verify(output / "best", source=str(checkpoint)).model_copy(
            update={"compared_with": "the shipped checkpoint"}
        ),
    )


def _train(
    checkpoint: Path, data: Path, output: Path, max_steps: int | None, reporter: "Reporter | None"
) -> "tuple[FinetuneReport, EvalReport]":
    with tempfile.TemporaryDirectory(dir=output.absolute().parent, prefix=".quickstart.") as folder:
        bundle = Path(folder) / "bundle"
        expand_checkpoint(str(checkpoint), "quickstart/x2", bundle)
        from scalenet_cli.commands.finetune import finetune
        from scalenet_cli.tasks.image_classification.evaluation.evaluate import evaluate
        from scalenet_cli.tasks.image_classification.evaluation.options import EvalOptions
        from scalenet_cli.tasks.requests import FinetuneOptions
        from scalenet_cli.training.data import DataOptions
        from scalenet_cli.training.run_training import Work

        workers, limit = (WORKERS, None) if max_steps is None else (0, TRIAL_IMAGES)
        evaluated = evaluate(
            checkpoint, data, how=EvalOptions(workers=workers, limit=limit, device="cpu")
        )
        run = finetune(
            bundle,
            DataOptions(str(data), limit_val=limit),
            output=output,
            options=FinetuneOptions(
                "training/quickstart",
                {} if max_steps is None else {"max_steps": max_steps},
                device="cpu",
                work=Work(workers=workers),
            ),
            reporter=reporter,
        )
    return run, evaluated


def _require_own(output: Path) -> bool:
    """Only a run of its own is replaced without being asked to; whether there is one.

    Raises:
        OutputExists: something else is there.
    """
    if not output.exists() and not output.is_symlink():
        return False
    start = output / "start"
    ours = False
    if is_bundle(start) and not output.is_symlink():
        try:
            ours = read_manifest(start).source.reference == CHECKPOINT
        except BundleError:
            ours = False
    if not ours:
        raise OutputExists(
            "the output exists and is no run of quickstart",
            where=str(output),
            hint="choose another -o",
        )
    return True
