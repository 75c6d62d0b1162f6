"""The files that runs and studies are made of: what other outputs may not replace."""

from pathlib import Path
from typing import Final

from scalenet_cli.errors import OutputExists

# Of a run. Its bundles lie in folders of their own.
RUN_RECORD: Final = "run.json"
RECIPE: Final = "recipe.yaml"
METRICS: Final = "metrics.jsonl"
TIMINGS: Final = "timings.jsonl"
CURVES: Final = "curves.png"
START, LAST, BEST = "start", "last", "best"
RUN_PARTS: Final = (RUN_RECORD, RECIPE, METRICS, TIMINGS, CURVES, "state-*", "tensorboard")
# Of a study.
STUDY: Final = "study.yaml"
RESULTS: Final = "results.json"
TABLE: Final = "results.md"
STUDY_TIMINGS: Final = "timings.json"
STUDY_PARTS: Final = (STUDY, RESULTS, TABLE, STUDY_TIMINGS)


def is_run(folder: Path) -> bool:
    """Whether a run was started in the folder."""
    try:
        return (folder / RUN_RECORD).is_file()
    except (OSError, ValueError):
        return False


def require_outside_run(output: Path) -> None:
    """The output is not one of the bundles of a run, which belong to its state.

    Raises:
        OutputExists: it is.
    """
    place = output.resolve()
    bundles = [place.parent / name for name in (START, LAST, BEST)]
    if is_run(place.parent) and place in bundles:
        raise OutputExists(
            "the output is part of a run, which could not be resumed without it",
            where=str(output),
            hint="choose another -o",
        )
