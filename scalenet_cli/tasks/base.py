"""What a task has to say about itself."""

from typing import Any, Protocol

from scalenet_cli.measure.diagnosed_model import DiagnosedModel
from scalenet_cli.measure.throughput import Work as BenchWork
from scalenet_cli.plan.training import TrainingRecipe
from scalenet_cli.reports.metrics import Metric
from scalenet_cli.tasks.requests import (
    BenchRequest,
    DataRequest,
    Diagnosis,
    EvalRequest,
    EvalResult,
    Parts,
    Progress,
    Request,
)
from scalenet_cli.training.run_record import SplitRecord
from scalenet_cli.training.training_task import TrainingTask


class OpenedData(Protocol):
    """Data that fit a model, before the recipe of an arm is known."""

    @property
    def new_head(self) -> bool:
        """Whether the model gets a head of its own for these data, which is trained."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should hear of."""
        ...

    def training_task(self, recipe: Any) -> TrainingTask:
        """As a recipe trains on them."""
        ...

    def records(self, recipe: Any) -> tuple[SplitRecord, SplitRecord]:
        """Which samples training and validation have."""
        ...


class Task(Protocol):
    """What a kind of model is for. Everything that differs between tasks is asked here."""

    @property
    def name(self) -> str:
        """The key in TASKS."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """All that an evaluation can give; the first chooses the best bundle of a run."""
        ...

    @property
    def recipe(self) -> type[TrainingRecipe]:
        """How its models are trained; has the task's name as the default of ``task``."""
        ...

    @property
    def threshold_examples(self) -> str:
        """What a hint shows of ``--fail-under``."""
        ...

    @property
    def sample_unit(self) -> str:
        """What samples are called, as in "5 images"."""
        ...

    def refuse_data(self, data: str | None, dataset: str, target: str) -> None:
        """Data that are missing, or plainly of another task.

        Raises:
            OptionError: they are.
        """
        ...

    def prepare_run(self, request: Request, recipe: Any) -> Parts:
        """All that a run needs of the task; the model's weights are read when asked for.

        Raises:
            DataError, OptionError: the data cannot be used, or do not fit the model.
        """
        ...

    def open_data(self, request: DataRequest) -> OpenedData:
        """Data for the arms of a study.

        Raises:
            DataError, OptionError: they cannot be used, or do not fit the model.
        """
        ...

    def evaluate(self, request: EvalRequest, progress: Progress | None) -> EvalResult:
        """Opens, evaluates, writes and reports.

        Raises:
            ScalenetError: the target, the data or an option cannot be used.
        """
        ...

    def bench_batch_size(self, device: str) -> int:
        """Samples at a time, by the kind of device."""
        ...

    def make_bench_batch(self, request: "BenchRequest") -> BenchWork:
        """A random batch to train and answer, with its loss.

        Raises:
            OptionError: an option that has no meaning for the task's inputs.
        """
        ...

    def open_samples(self, work: "Diagnosis", target: str, *, held: int = 0) -> DiagnosedModel:
        """A model and samples for a diagnosis; ``held`` bytes are taken by another one's.

        Raises:
            ScalenetError: the target or the data cannot be used, or do not fit each other.
        """
        ...
