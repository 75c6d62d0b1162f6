"""Named tasks of EleutherAI's lm-eval, on a model that is loaded already."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import DownloadFailed, MissingExtra, OptionError

_STDERR: Final = "_stderr"


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What lm-eval reports of one task; a standard error is None where it computes none."""

    name: str
    num_samples: int
    num_fewshot: int
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float | None]


def check_tasks(names: Sequence[str], folder: Path | None = None) -> Any:
    """lm-eval's index of tasks, which has all of these names. Nothing is downloaded.

    ``folder`` has descriptions of tasks, by default lm-eval's own.

    Raises:
        MissingExtra: lm-eval is not there.
        OptionError: a task that it does not have.
    """
    index = _index(folder)
    known = set(index.all_tasks)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=5)
            raise OptionError(
                f"lm-eval has no task {name or 'without a name'}",
                hint=f"near it: {', '.join(near)}" if near else "`lm_eval ls tasks` lists them all",
            )
    return index


def _index(folder: Path | None) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--tasks needs the package {error.name}",
            hint="pip install 'scalenet-cli[lm-eval]', or give --data a file of questions",
        ) from None

    # Tasks may shuffle their data while they are loaded, so simple_evaluate has to load them itself
    # after it has set its seeds; but only what fails there is a failure of the data.
    class Index(TaskManager):  # type: ignore[misc]
        def load(self, task_list: Any) -> Any:
            with _fetching(task_list):
                return super().load(task_list)

    return Index(include_path=folder, include_defaults=folder is None)


def run_tasks(
    model: Any,
    tokenizer: Any,
    names: Sequence[str],
    *,
    index: Any,
    context: int,
    batch_size: int,
    num_fewshot: int | None = None,
    limit: int | None = None,
) -> list[TaskScores]:
    """The tasks' scores, by lm-eval's own code around this very model.

    ``index`` is what :func:`check_tasks` returned. Data that are not in the cache of `datasets`
    are downloaded: naming a task asks for that. ``limit`` takes the first samples of each task.

    Raises:
        DownloadFailed: the data of a task could not be fetched.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet():
        wrapped = HFLM(
            pretrained=model, tokenizer=tokenizer, batch_size=batch_size, max_length=context
        )
        found = simple_evaluate(
            model=wrapped,
            tasks=list(names),
            task_manager=index,
            num_fewshot=num_fewshot,
            limit=limit,
            log_samples=False,
        )
    shots, samples = found["n-shot"], found["n-samples"]
    return [
        _scores(name, values, samples.get(name, {}), shots.get(name))
        for name, values in found["results"].items()
    ]


def _scores(
    name: str, values: Mapping[str, Any], samples: Mapping[str, int], shots: object
) -> TaskScores:
    """lm-eval's keys are ``acc,none`` and ``acc_stderr,none``: the metric and its filter."""
    metrics: dict[str, float] = {}
    errors: dict[str, float | None] = {}
    for key, value in values.items():
        metric, comma, chosen = key.partition(",")
        if not comma:
            continue
        plain = metric.removesuffix(_STDERR)
        label = plain if chosen == "none" else f"{plain},{chosen}"
        number = float(value) if isinstance(value, int | float) else None
        if metric.endswith(_STDERR):
            errors[label] = number
        elif number is not None:
            metrics[label] = number
    count = samples.get("effective", 0)
    return TaskScores(name, count, shots if isinstance(shots, int) else 0, metrics, errors)


@contextmanager
def _fetching(names: Sequence[str]) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (
        ConnectionError, FileNotFoundError, DatasetsError, HfHubHTTPError, RuntimeError, ValueError,
    ) as error:  # fmt: skip
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise DownloadFailed(
            f"the data of {', '.join(names)} could not be fetched: {first}",
            hint="check the network; offline, give --data a .jsonl of {query, choices, gold}",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Its advice is for its own command line; progress bars stay where there is a terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
