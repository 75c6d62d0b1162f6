"""The folder of a study: what it holds, and which of its cells still apply."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scalenet_cli.errors import OutputExists, OutputUnwritable, RunDiffers, RunStateDamaged
from scalenet_cli.files.lock import INSIDE, sole_writer
from scalenet_cli.files.output_parts import STUDY
from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.plan.load_study import StudyDocument
from scalenet_cli.plan.training import current_task_name
from scalenet_cli.reports.base import Report
from scalenet_cli.study.arms import Arm
from scalenet_cli.tasks import TASKS, find_task
from scalenet_cli.training.run_folder import RunFolder


class Outcome(Report):
    """What became of a cell; a diverged one did so after ``steps``, and has no best or last."""

    metric: str
    steps: int
    before: float | None = None
    best: float | None = None
    best_step: int | None = None
    last: float | None = None
    diverged: str | None = None


@dataclass(frozen=True, slots=True)
class Cell:
    """One run to be made."""

    arm: Arm
    seed: int

    @property
    def name(self) -> str:
        """As it is called in messages and options."""
        return f"{self.arm.name}/seed-{self.seed}"


@dataclass(frozen=True, slots=True)
class StudyFolder:
    """Paths of one study's output."""

    path: Path

    def run(self, cell: Cell) -> RunFolder:
        """The cell's run."""
        return RunFolder(self.path / "cells" / cell.arm.name / f"seed-{cell.seed}")

    def outcome_path(self, cell: Cell) -> Path:
        """What a finished cell leaves."""
        return self.path / "cells" / cell.arm.name / f"seed-{cell.seed}.json"

    def outcome(self, cell: Cell) -> Outcome | None:
        """What became of a cell; None where it is not finished.

        Raises:
            RunStateDamaged: the file is not what was written.
        """
        path = self.outcome_path(cell)
        if not path.is_file():
            return None
        try:
            return Outcome.model_validate_json(path.read_bytes())
        except ValueError:
            raise RunStateDamaged(
                "the cell's outcome is not what was written",
                where=str(path),
                hint="remove the file: the cell is then reported again from its run",
            ) from None

    def write(self, name: str, text: str) -> None:
        """A file of the study, whole or not at all.

        Raises:
            OutputUnwritable: no permission, or no room.
        """
        path, failure = self.path / name, "it cannot be written"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(f"{failure}: {error.strerror}", where=str(path)) from None
        with staged_file(path, failure=failure) as staging:
            staging.write_text(text, encoding="utf-8")

    def forget_bundles(self) -> None:
        """Every run holds the bundle that it started from."""
        shutil.rmtree(self.path / "bundles", ignore_errors=True)


def require_idle(folder: StudyFolder) -> None:
    """No process that an earlier command left behind is still at work on a cell.

    Raises:
        OutputInUse: one is.
    """
    for arm, cells in _cells(folder.path):
        for name in cells:
            with sole_writer(folder.path / "cells" / arm / name):
                pass


def require_same(folder: StudyFolder, new: dict[str, Any]) -> tuple[str, ...]:
    """The cells that there are belong to this study; returns what is left of an earlier one.

    ``new`` is the study as it is now, see resolved.

    Raises:
        OutputExists: the output is something else.
        RunDiffers: names the cells that were made otherwise, and what is different.
    """
    path = folder.path
    if not _is_study(path):
        return ()
    old = _read(path / STUDY)
    shared = [key for key in ("source", "data") if old.get(key) != new[key]]
    stale: list[str] = []
    others: list[str] = []
    for name, found in _cells(path):
        arm, earlier = new["arms"].get(name), _with_defaults(old.get("arms", {}).get(name) or {})
        changed = shared or [key for key in arm or () if earlier.get(key) != arm[key]]
        cells = [f"{name}/{seed}" for seed in found]
        if arm is None:
            others += cells
        elif changed:
            stale += [f"{cell} ({', '.join(changed)} changed)" for cell in cells]
    if stale:
        raise RunDiffers(
            f"the study was changed, and these cells no longer apply: {'; '.join(stale)}",
            where=str(path),
            hint="choose another -o, or remove these cells' folders and files from "
            f"{path / 'cells'}; the others are kept",
        )
    known = {f"{arm}/seed-{seed}" for arm in new["arms"] for seed in new["seeds"]}
    kept = [f"{name}/{s}" for name, found in _cells(path) for s in found if name in new["arms"]]
    return tuple(sorted({*others, *(cell for cell in kept if cell not in known)}))


def _with_defaults(arm: dict[str, Any]) -> dict[str, Any]:
    """An arm with the entries that recipes have got since it was written: their defaults."""
    recipe = arm.get("recipe")
    if not isinstance(recipe, dict):
        return arm
    task = current_task_name(recipe.get("task"))
    if not isinstance(task, str) or task not in TASKS:
        return arm
    defaults = find_task(task).recipe().model_dump(mode="json", exclude={"seed"})
    return {**arm, "recipe": {**defaults, **recipe, "task": task}}


def with_kept_arms(folder: StudyFolder, new: dict[str, Any]) -> dict[str, Any]:
    """The study to be written, with the earlier entries of arms that it leaves out.

    An arm that comes back as it was has its cells again. Not where source or data are others: its
    entry says nothing of these.
    """
    if not _is_study(folder.path):
        return new
    old = _read(folder.path / STUDY)
    if any(old.get(key) != new[key] for key in ("source", "data")):
        return new
    earlier = old.get("arms", {})
    kept = {
        name: earlier[name]
        for name, found in _cells(folder.path)
        if found and name in earlier and name not in new["arms"]
    }
    return {**new, "arms": {**new["arms"], **kept}}


def _is_study(path: Path) -> bool:
    """Whether a study was begun there; nothing else may be.

    Raises:
        OutputExists: something else is.
    """
    if (path / STUDY).is_file():
        return True
    # A command that was killed before it wrote anything else may leave its lock.
    empty = path.is_dir() and all(entry.name == INSIDE for entry in path.iterdir())
    if empty or not (path.exists() or path.is_symlink()):
        return False
    raise OutputExists(
        f"the output exists and is no study: it has no {STUDY}",
        where=str(path),
        hint="choose another -o",
    )


def resolved(
    document: StudyDocument, arms: tuple[Arm, ...], source_digest: str | None
) -> dict[str, Any]:
    """The study with everything written out that its results depend on."""
    study = document.study
    source = study.model_dump(include={"source", "arch", "model_kwargs", "random_weights"})
    return {
        "version": 1,
        "title": study.title,
        "source": {**source, "sha256": source_digest},
        "data": study.data.model_dump(),
        "seeds": list(study.seeds),
        "arms": {
            arm.name: {
                "plan": arm.plan.plan.model_dump(mode="json"),
                "random_weights": arm.options.random_weights,
                "recipe": arm.recipe.model_dump(mode="json", exclude={"seed"}),
            }
            for arm in arms
        },
    }


def evaluations(run: RunFolder, metric: str) -> list[tuple[float, float]]:
    """Epoch and metric of every evaluation of a run."""
    if not run.metrics.is_file():
        return []
    lines = [json.loads(line) for line in run.metrics.read_text(encoding="utf-8").splitlines()]
    return [(line["epoch"], line[metric]) for line in lines if metric in line]


def training_seconds(run: RunFolder, batch_size: int) -> float | None:
    """Time of the steps of a run, without evaluations; None where no step was timed."""
    if not run.timings.is_file():
        return None
    speeds: dict[int, float] = {}
    for line in run.timings.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            values = json.loads(line)
            speeds[int(values["step"])] = float(values["samples_per_second"])  # the last one counts
        except (ValueError, TypeError, LookupError):
            continue  # times are not made durable: a power failure may tear a line
    seconds, previous = 0.0, 0
    for step in sorted(speeds):
        seconds += (step - previous) * batch_size / speeds[step] if speeds[step] else 0.0
        previous = step
    return round(seconds, 2) if speeds else None


def _read(path: Path) -> dict[str, Any]:
    try:
        # dump_yaml wrote it; with many arms it is longer than parse_yaml lets a study be.
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict):
            raise ValueError("it is no mapping")
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunStateDamaged(
            f"{STUDY} of the output cannot be read: {error}", where=str(path)
        ) from None
    return data


def _cells(path: Path) -> list[tuple[str, list[str]]]:
    """Names of the arms that have cells, with the names of these."""
    cells = path / "cells"
    if not cells.is_dir():
        return []
    return [
        (arm.name, sorted({p.stem for p in arm.iterdir() if not p.name.startswith(".")}))
        for arm in sorted(cells.iterdir())
        if arm.is_dir()
    ]
