"""The folder of one run: what it holds, how it is made, and what may be resumed in it."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final, NamedTuple, final

from pydantic import ValidationError

from scalenet_cli.bundle.manifest import digest_content
from scalenet_cli.bundle.read import Bundle, open_bundle
from scalenet_cli.bundle.trained import Start, copy_start
from scalenet_cli.errors import (
    NotARun,
    OutputUnwritable,
    RunDiffers,
    RunExists,
    RunStateDamaged,
)
from scalenet_cli.families.sources.json_text import parse_json
from scalenet_cli.files.durable import fsync_path
from scalenet_cli.files.output_parts import (
    BEST,
    CURVES,
    LAST,
    METRICS,
    RECIPE,
    RUN_RECORD,
    START,
    TIMINGS,
    is_run,
)
from scalenet_cli.files.staged_folder import put_back, require_writable_parent, staged_folder
from scalenet_cli.plan.load_training import differences, load_training_recipe, recipe_text
from scalenet_cli.plan.training import DEFAULT_TASK, Recipe
from scalenet_cli.training.run_record import FORMAT, RunRecord, compare_records
from scalenet_cli.training.training_task import TrainingTask

MAX_RECORD_BYTES: Final = 100_000_000


class FileStart(NamedTuple):
    """The first bytes of a file that grows, and their sha256 where that is known."""

    num_bytes: int
    sha256: str | None


@final
class RunFolder:
    """Paths of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.start, self.last, self.best = path / START, path / LAST, path / BEST
        self.metrics, self.timings, self.curves = path / METRICS, path / TIMINGS, path / CURVES

    def exists(self) -> bool:
        """Whether a run was started here."""
        return is_run(self.path)

    def create(self, start: Start, record: RunRecord, recipe: Recipe) -> None:
        """Makes the folder with the bundle to start from, whole or not at all.

        Raises:
            RunExists: something is there.
            OutputUnwritable: no permission, or no room.
        """
        self.require_absent()
        try:
            self.path.absolute().parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputUnwritable(
                f"its folder cannot be made: {error.strerror}", where=str(self.path)
            ) from None
        with staged_folder(self.path, self._require_room) as folder:
            copy_start(start, folder / "start")
            text = recipe_text(recipe).encode()
            (folder / RECIPE).write_bytes(text)
            (folder / METRICS).touch()
            own = record.model_copy(update={"recipe": hashlib.sha256(text).hexdigest()})
            content = own.model_dump(mode="json")
            content["digest"] = digest_content(content)
            (folder / RUN_RECORD).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            for name in (RECIPE, METRICS, RUN_RECORD):
                fsync_path(folder / name)

    def _require_room(self) -> None:
        self.require_absent()
        require_writable_parent(self.path)

    def require_absent(self) -> None:
        """Nothing lies where the run is to be.

        Raises:
            RunExists: something does.
        """
        try:
            linked, there = self.path.is_symlink(), self.path.exists()
            taken = linked or (there and (not self.path.is_dir() or any(self.path.iterdir())))
        except (OSError, ValueError) as error:
            raise OutputUnwritable(
                f"the output cannot be used: {getattr(error, 'strerror', error)}",
                where=str(self.path),
            ) from None
        if taken:
            raise RunExists(
                "the output holds a run already" if self.exists() else "the output exists already",
                where=str(self.path),
                hint="add --resume to go on with it, or choose another -o"
                if self.exists()
                else "choose another -o",
            )

    def recipe(self, kind: type[Recipe]) -> Recipe:
        """The recipe of the run, which is of a task's own kind."""
        task = str(kind.model_fields["task"].default)
        return load_training_recipe(self.path / RECIPE, recipes={DEFAULT_TASK: kind, task: kind})

    def record(self) -> RunRecord:
        """What the run was started with.

        Raises:
            NotARun: no run, or one of another version.
            RunStateDamaged: it was changed after it was written.
        """
        try:
            if (self.path / RUN_RECORD).stat().st_size > MAX_RECORD_BYTES:
                raise ValueError("too large")
            content = parse_json((self.path / RUN_RECORD).read_bytes())
            if content["format"] != FORMAT:
                raise ValueError("another format")
            if "digest" in content and content["digest"] != digest_content(content):
                raise RunStateDamaged(
                    f"{RUN_RECORD} is not what was written: its digest differs from its content",
                    where=str(self.path),
                    hint="put the file back as it was; last/ and best/ are bundles of their own",
                )
            return RunRecord.model_validate(content)
        except (OSError, ValidationError, ValueError, TypeError, LookupError):
            raise NotARun(
                f"the folder has no {RUN_RECORD} that this version understands",
                where=str(self.path),
                hint="choose another -o to start a run; last/ and best/ are bundles of their own",
            ) from None

    def open_start(self) -> Bundle:
        """The bundle that the run started from."""
        return open_bundle(self.start)

    def require_same(self, record: RunRecord, recipe: Recipe, task: TrainingTask) -> None:
        """A run goes on with what it began with, or not at all.

        Raises:
            RunDiffers: lists every difference.
        """
        changed = differences(self.recipe(type(recipe)), recipe)
        found, advice = compare_records(
            self.record(), record, options=task.same_options, bundle_name=task.bundle_name
        )
        if changed:
            advice = ("leave out what changes the recipe", *advice)
        if changed or found:
            raise RunDiffers(
                f"the run was started otherwise: {'; '.join((*changed, *found))}",
                where=str(self.path),
                hint=f"{'; '.join(advice)}; or choose another -o",
            )

    def require_own(self) -> None:
        """What is written or trusted lies in the folder itself, and is what the run began with.

        Raises:
            NotARun: no run, one of another version, or one with links or pipes in it.
            RunStateDamaged: record, recipe or start were changed after they were written.
            BundleError: start/ is damaged.
        """
        record = self.record()
        for path in sorted((*self.path.iterdir(), *self.path.glob("state-*/*"))):
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                kind = "link" if path.is_symlink() else "pipe or the like"
                raise NotARun(
                    f"{path.relative_to(self.path)} is a {kind}, which a run does not make",
                    where=str(self.path),
                    hint="do not trust this folder; or put the file itself in its place",
                )
        found = self.path / RECIPE
        if record.recipe is not None and not _has_digest(found, record.recipe):
            raise RunStateDamaged(
                f"{RECIPE} is not what the run began with",
                where=str(self.path),
                hint="put the file back as it was; another recipe is for a run in another folder",
            )
        if self.open_start().manifest.digest != record.bundle:
            raise RunStateDamaged(
                f"start/ is not the bundle that {RUN_RECORD} names", where=str(self.path)
            )

    def require_metrics(self, written: FileStart) -> None:
        """The metrics of all steps that were done are there.

        Raises:
            RunStateDamaged: lines are missing, or were changed.
        """
        there = self.metrics.stat().st_size if self.metrics.is_file() else 0
        facts = ""
        if there < written.num_bytes:
            facts = f"has {there:,} bytes, but {written.num_bytes:,} when the state was saved"
        elif written.sha256 not in (None, self._metrics_digest(written.num_bytes)):
            facts = f"is not what was written: its first {written.num_bytes:,} bytes have changed"
        if facts:
            raise RunStateDamaged(
                f"{METRICS} {facts}",
                where=str(self.path),
                hint="put the file back, or start the run anew in another folder",
            )

    def bundle_place(self, name: str) -> Path | None:
        """Where last/ or best/ is; None where it was not written yet.

        Where names cannot change places in one step, a kill may fall between two renames.
        """
        kept = sorted(self.path.glob(f".{name}.*.old/bundle"))
        return next((place for place in (self.path / name, *kept) if place.exists()), None)

    def go_back(self, num_bytes: int) -> None:
        """Forgets lines of steps that will be done again, and folders that were never finished."""
        with self.metrics.open("ab") as file:
            file.truncate(num_bytes)
        for bundle in (self.last, self.best):
            place = self.bundle_place(bundle.name)
            if place is not None and place != bundle:
                put_back(place, bundle)
        for stale in (*self.path.glob(".*.partial"), *self.path.glob(".*.old")):
            shutil.rmtree(stale, ignore_errors=True)

    def append(self, path: Path, values: dict[str, Any]) -> int:
        """One JSON line; returns the size of the file."""
        with path.open("ab") as file:
            file.write(json.dumps(values).encode() + b"\n")
            return file.tell()

    def sync_metrics(self) -> FileStart:
        """Makes the metrics durable; returns their size and digest."""
        fsync_path(self.metrics)
        num_bytes = self.metrics.stat().st_size
        return FileStart(num_bytes, self._metrics_digest(num_bytes))

    def _metrics_digest(self, num_bytes: int) -> str:
        if not num_bytes:
            return hashlib.sha256().hexdigest()
        with self.metrics.open("rb") as file:
            return hashlib.sha256(file.read(num_bytes)).hexdigest()


def _has_digest(path: Path, digest: str) -> bool:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest() == digest
    except OSError:
        return False
