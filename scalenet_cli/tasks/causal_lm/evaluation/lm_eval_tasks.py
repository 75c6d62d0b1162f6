"""Named tasks of EleutherAI's lm-eval, on a model that is loaded already."""

import logging
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import DownloadFailed, MissingExtra, OptionError, install_hint

_STDERR: Final = "_stderr"
_INSTALL: Final = "pip install"


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What lm-eval reports of one task; a standard error is None where it computes none."""

    name: str
    num_samples: int
    num_fewshot: int
    metrics: Mapping[str, float]
    standard_errors: Mapping[str, float | None]


def check_tasks(names: Sequence[str], folder: Path | None = None, *, defaults: bool = True) -> Any:
    """lm-eval's index of tasks, which has all of these names. Nothing is downloaded.

    ``folder`` has descriptions of more tasks, which go before lm-eval's own (``defaults``) of the
    same name. A task may name Python functions beside it, which are run when it is.

    Raises:
        MissingExtra: lm-eval is not there.
        OptionError: no such folder, or a task that is not known.
    """
    if folder is not None and not folder.is_dir():
        raise OptionError("--include-path is no folder", where=str(folder))
    index = _index(folder, defaults)
    known = set(index.all_tasks)
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, n=5)
            beside = "" if folder is None else f", nor has {folder}"
            raise OptionError(
                f"lm-eval has no task {name or 'without a name'}{beside}",
                hint=f"near it: {', '.join(near)}" if near else "`lm_eval ls tasks` lists them all",
            )
    return index


def _index(folder: Path | None, defaults: bool) -> Any:
    try:
        from lm_eval.tasks import TaskManager
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"--tasks needs the package {error.name}",
            hint=f"{install_hint('lm-eval')}; or give --data a file of questions",
        ) from None

    # Tasks may shuffle their data while they are loaded, so simple_evaluate has to load them itself
    # after it has set its seeds; but only what fails there is a failure of the data.
    class Index(TaskManager):  # type: ignore[misc]
        def load(self, task_list: Any) -> Any:
            with _fetching(task_list):
                found = super().load(task_list)
            _refuse_unsafe(found["tasks"])
            return found

    return Index(include_path=folder, include_defaults=defaults)


def _refuse_unsafe(tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise OptionError(
                f"the task {name} runs code that the model writes",
                hint="scalenet does not run such code; lm-eval itself does where it is told to, "
                "which is best done in a sandbox",
            )


def require_chat_template(tokenizer: Any) -> None:
    """``apply_chat_template`` writes each question as a user's message, which takes a template.

    Raises:
        OptionError: there is none.
    """
    if not tokenizer.chat_template:
        raise OptionError(
            "--apply-chat-template needs a tokenizer with a chat template",
            hint="leave it out for a model that was not trained on conversations",
        )


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
    apply_chat_template: bool = False,
) -> list[TaskScores]:
    """The tasks' scores, by lm-eval's own code around this very model.

    ``index`` is what :func:`check_tasks` returned. Data that are not in the cache of `datasets`
    are downloaded: naming a task asks for that. ``limit`` takes the first samples of each task.

    Raises:
        DownloadFailed: the data or a metric of a task could not be fetched.
        MissingExtra: a task needs a package that is not there.
        OptionError: a task cannot be loaded, or runs code that the model writes.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet(), _importing(names):
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
            apply_chat_template=apply_chat_template,
        )
    return _all_scores(found)


def _all_scores(found: Mapping[str, Any]) -> list[TaskScores]:
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
    return TaskScores(
        name=name,
        num_samples=count,
        num_fewshot=shots if isinstance(shots, int) else 0,
        metrics=metrics,
        standard_errors=errors,
    )


@contextmanager
def _fetching(names: Sequence[str]) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (
        ConnectionError, FileNotFoundError, DatasetsError, HfHubHTTPError, RuntimeError, ValueError,
    ) as error:  # fmt: skip
        if _is_of_metric(error):
            raise DownloadFailed(
                f"a metric of {', '.join(names)} could not be fetched: {_first_line(error)}",
                hint="metrics of the package evaluate are downloaded: check the network",
            ) from None
        raise DownloadFailed(
            f"the data of {', '.join(names)} could not be fetched: {_first_line(error)}",
            hint="check the network; offline, give --data a .jsonl of {query, choices, gold}",
        ) from None
    except (AttributeError, LookupError, TypeError, NameError, SyntaxError) as error:
        raise _unloadable(names, error) from None


def _is_of_metric(error: Exception) -> bool:
    """Whether the package evaluate raised it, which tasks load their metrics with."""
    frames = traceback.walk_tb(error.__traceback__)
    return any(str(f.f_globals.get("__name__")).startswith("evaluate.") for f, _ in frames)


@contextmanager
def _importing(names: Sequence[str]) -> Iterator[None]:
    """Tasks import packages that lm-eval alone does not bring, and check versions by assertions."""
    try:
        yield
    except (ImportError, AssertionError) as error:
        said = " ".join(str(error).split())
        advised = _INSTALL in said
        cause = error.__cause__ or error.__context__ if advised else error
        package = cause.name if isinstance(cause, ModuleNotFoundError) else None
        if package is None and not advised:
            if isinstance(error, AssertionError):
                raise
            raise _unloadable(names, error) from None
        raise MissingExtra(
            f"--tasks {','.join(names)} needs {f'the package {package}' if package else 'more'}",
            hint=said[:300] if advised else f"{_INSTALL} {_requirement(str(package))}",
        ) from None


def _requirement(package: str) -> str:
    """lm-eval's extra that has the package, or the package itself."""
    from importlib.metadata import requires

    for line in requires("lm_eval") or ():
        name, _, extra = line.partition("; extra == ")
        found = re.match(r"[\w.-]+", name)
        if extra and found and found[0].replace("-", "_") == package:
            return f"'lm-eval[{extra.strip(chr(34))}]'"
    return package.partition(".")[0]


def _unloadable(names: Sequence[str], error: Exception) -> OptionError:
    kind = type(error).__name__
    return OptionError(f"--tasks {','.join(names)} cannot be loaded: {kind}: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


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
