"""The folder of a diagnosis: whole or not at all, and never over anything else."""

import json
from pathlib import Path
from typing import Final

from scalenet_cli.diagnosis.report import DiagnoseReport
from scalenet_cli.errors import OutputExists, OutputUnwritable
from scalenet_cli.files.durable import fsync_path
from scalenet_cli.files.staged_folder import require_writable_parent, staged_folder

NUMBERS: Final = "report.json"
PAGE: Final = "README.md"
_MAX_BYTES: Final = 2**30


def check_report_output(output: Path, *, force: bool) -> None:
    """The output may be written, be it in the place of an earlier report.

    Raises:
        OutputExists: it is there; with ``force``, it is there and is no report.
        OutputUnwritable: its folder is missing or may not be written to.
    """
    try:
        empty = output.is_dir() and not any(output.iterdir())
        exists = (output.is_symlink() or output.exists()) and not empty
    except OSError as error:
        raise OutputUnwritable(f"{error.strerror}", where=str(output)) from None
    if not exists:
        require_writable_parent(output)
        return
    if not force:
        raise OutputExists(
            "the output exists already",
            where=str(output),
            hint="choose another -o, or add --force to replace a report",
        )
    if output.is_symlink() or not _is_report(output):
        raise OutputExists(
            "the output exists and holds more than a report, so --force does not remove it",
            where=str(output),
            hint="choose another -o, or remove it yourself",
        )


def _is_report(folder: Path) -> bool:
    """Whether everything in the folder is what the report in it lists."""
    try:
        path = folder / NUMBERS
        if path.stat().st_size > _MAX_BYTES:
            return False
        content = json.loads(path.read_bytes())
        known = set(content["files"])
        ours = content["tool"].startswith("scalenet-cli ") and NUMBERS in known
        return ours and all(entry.name in known for entry in folder.iterdir())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return False


def write_report(report: DiagnoseReport, output: Path, *, force: bool) -> DiagnoseReport:
    """Numbers, plots and page in a folder; the report that was written names them.

    Raises:
        OutputExists, OutputUnwritable: see check_report_output; also a full disk.
    """
    from scalenet_cli.diagnosis.page import make_page
    from scalenet_cli.diagnosis.plots import draw_plots

    with staged_folder(output, lambda: check_report_output(output, force=force)) as folder:
        pictures = draw_plots(report, folder)
        written = report.model_copy(update={"files": (NUMBERS, PAGE, *pictures)})
        (folder / PAGE).write_text(make_page(written), encoding="utf-8")
        numbers = written.model_dump_json(indent=1)
        (folder / NUMBERS).write_text(numbers + "\n", encoding="utf-8")
        for name in written.files:
            fsync_path(folder / name)
    return written
