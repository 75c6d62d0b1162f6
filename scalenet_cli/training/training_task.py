"""What a run trains for. A task adds data, loss and metric; the engine does all else."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, final

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import Group
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.objective import Loss

# The model as it is called in training: with DDP or FSDP around it.
Run = Callable[..., Any]


class Skipped(NamedTuple):
    """A sample that could not be used."""

    name: str
    reason: str


@final
@dataclass(frozen=True)
class Scores:
    """What an evaluation found, over all samples and ranks.

    ``loss`` is the mean over all targets; ``metrics`` are the task's own, by name; ``text`` says
    all of it in a line for people.
    """

    loss: float
    metrics: Mapping[str, float]
    text: str
    skipped: tuple[Skipped, ...] = ()


class TrainingTask(Protocol):
    """Batches are opaque to the engine: it passes what ``collate`` made to the other methods."""

    # Of ``Scores.metrics``: what the best bundle is chosen by.
    metric: ClassVar[str]
    larger_is_better: ClassVar[bool]
    # Every micro-batch has as many targets as any other: its share of a step is known beforehand.
    even: ClassVar[bool]
    # Options beside --data that decide samples and head, and no recipe keeps: a resumed run has to
    # be given them again. And what the digest of a run's bundle covers, for messages.
    same_options: ClassVar[tuple[str, ...]]
    bundle_name: ClassVar[str]
    # Processes that load data, unless the user says how many.
    default_workers: ClassVar[int]

    @property
    def place(self) -> str:
        """What to call the training data in a message."""
        ...

    @property
    def training(self) -> "Dataset[Any]":
        """Samples, addressed by epoch and position."""
        ...

    @property
    def validation(self) -> "Dataset[Any]":
        """Samples as evaluation sees them, addressed by position."""
        ...

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples of training and of validation."""
        ...

    def collate(self, samples: Sequence[Any]) -> Any:
        """A batch; of no samples at all, too, where a rank has none left."""
        ...

    def order(self, epoch: int) -> torch.Tensor:
        """In which order an epoch takes the training samples: a function of seed and epoch."""
        ...

    def check(self, micro_batch: int) -> None:
        """So many samples at a time can be trained on.

        Raises:
            ScalenetError: they cannot.
        """
        ...

    def prepare(self, model: nn.Module, layout: Layout, family: Family) -> None:
        """Sets up the model for training, in place, before it is parallel or compiled."""
        ...

    def accept(self, batch: Any, size: int) -> Sequence[Skipped]:
        """What was left out of a training batch of ``size`` samples.

        Raises:
            DataError: the batch cannot be used.
        """
        ...

    def num_targets(self, batch: Any) -> int:
        """Over how many targets the loss of a batch is a mean."""
        ...

    def loss(self, run: Run, batch: Any, device: torch.device, *, epoch: int, purpose: str) -> Loss:
        """Mean loss of a micro-batch; what is random in it is seeded by ``purpose``."""
        ...

    def remarks(self, before: float, trained: Collection[Group]) -> tuple[str, ...]:
        """What the metric before training says to somebody who trains these groups."""
        ...

    def evaluate(self, model: nn.Module, batches: "DataLoader[Any]", devices: Devices) -> Scores:
        """Loss and metrics of a model in evaluation mode over all ranks' batches.

        Raises:
            DataError: a sample cannot be used, or none is left.
        """
        ...


@final
class EvaluationMode:
    """A model in evaluation mode for a while; every module gets its own mode back."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._training: list[nn.Module] = []

    def __enter__(self) -> None:
        self._training = [module for module in self._model.modules() if module.training]
        self._model.eval()

    def __exit__(self, *_: object) -> None:
        for module in self._training:
            module.training = True
