"""Whether a study's cells were made on the data that there are now."""

from collections.abc import Mapping, Sequence

from scalenet_cli.errors import RunDiffers
from scalenet_cli.study.data import DataRecord
from scalenet_cli.study.folder import Cell, StudyFolder


def require_same_data(
    folder: StudyFolder, cells: Sequence[Cell], data: Mapping[str, DataRecord]
) -> None:
    """Cells that are finished or were begun have the samples that their arm has now.

    Data that were changed while a study stood still would make its cells no comparison. ``data`` is
    by the name of the arm: which sequences a text becomes depends on the recipe.

    Raises:
        RunDiffers: names the cells that have others.
        NotARun, RunStateDamaged: a finished cell has no run, or one with a damaged record.
    """
    others = []
    for cell in cells:
        run = folder.run(cell)
        if folder.outcome(cell) is None and not run.exists():
            continue
        record = run.record()
        if DataRecord(record.train, record.val) != data[cell.arm.name]:
            others.append(cell.name)
    if others:
        raise RunDiffers(
            f"the data were changed, and these cells were made on others: {', '.join(others)}",
            where=str(folder.path),
            hint="put the data back; or choose another -o, or remove these cells' folders and "
            f"files from {folder.path / 'cells'}",
        )
