"""A cell of a study: the run of one arm with one seed, which goes on where it stopped."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.commands.finetune import finetune
from scalenet_cli.errors import LossNotFinite
from scalenet_cli.study.folder import Cell, Outcome, StudyFolder, evaluations
from scalenet_cli.tasks.requests import FinetuneOptions
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.run_folder import RunFolder
from scalenet_cli.training.run_training import Work


@dataclass(frozen=True, slots=True)
class CellOptions:
    """What all cells have in common; nothing here is different between arms."""

    data: DataOptions
    num_classes: int | None
    reset_head: bool
    metric: str
    device: str = "auto"
    work: Work = field(default_factory=Work)


def run_cell(folder: StudyFolder, cell: Cell, options: CellOptions, reporter: Reporter) -> Outcome:
    """Trains a cell, goes on with it, or reads what became of it.

    A run that diverges is a result; everything else that ends a run ends the study.

    Raises:
        StoppedOnRequest: a signal; the run's state was saved.
        ScalenetError: it cannot go on.
    """
    known = folder.outcome(cell)
    if known is not None:
        return known
    try:
        outcome = _train(folder, cell, options, reporter)
    except LossNotFinite as error:
        reporter.note(f"{cell.name} diverged: {error.fact}")
        outcome = _diverged(folder.run(cell), options.metric, error)
    folder.write(
        str(folder.outcome_path(cell).relative_to(folder.path)),
        outcome.model_dump_json(indent=1) + "\n",
    )
    return outcome


def _train(folder: StudyFolder, cell: Cell, options: CellOptions, reporter: Reporter) -> Outcome:
    run = folder.run(cell)
    bundle = run.start if run.exists() else _expand(folder, cell)
    chosen = FinetuneOptions(
        settings={**cell.arm.recipe.model_dump(mode="json"), "seed": cell.seed},
        resume=run.exists(),
        num_classes=options.num_classes,
        reset_head=options.reset_head,
        ablation=False,
        device=options.device,
        work=options.work,
    )
    report = finetune(bundle, options.data, output=run.path, options=chosen, reporter=reporter)
    return Outcome(
        metric=report.metric,
        steps=report.steps,
        before=report.before,
        best=report.best,
        best_step=report.best_step,
        last=report.last[report.metric],
    )


def _expand(folder: StudyFolder, cell: Cell) -> Path:
    """The bundle that the cell starts from; what is random in the surgery is of its seed."""
    arm = cell.arm
    bundle = folder.path / "bundles" / arm.name / f"seed-{cell.seed}"
    bundle.parent.mkdir(parents=True, exist_ok=True)
    options = replace(arm.options, seed=cell.seed)
    expand_checkpoint(arm.reference, arm.plan, bundle, options=options, force=True)
    return bundle


def _diverged(run: RunFolder, metric: str, error: LossNotFinite) -> Outcome:
    lines = evaluations(run, metric)
    return Outcome(
        metric=metric,
        steps=error.step or 0,
        before=lines[0][1] if lines else None,
        diverged=error.fact,
    )
