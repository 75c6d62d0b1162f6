"""What is asked of a task, and what it answers, as records."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scalenet_cli.bundle.read import Bundle, bundle_folder, is_bundle
from scalenet_cli.bundle.trained import Start
from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import Target
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.reports.base import HeadClasses, Report
from scalenet_cli.training.contents import Look
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.run_record import RunRecord
from scalenet_cli.training.run_training import Work
from scalenet_cli.training.training_task import TrainingTask

if TYPE_CHECKING:
    import torch
    from torch import nn

# Batches done and batches in total, of this process.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FinetuneOptions:
    """What a run needs beside bundle, data and output.

    ``settings`` are recipe entries that win over those of ``recipe``, which is a file or a shipped
    name. ``num_classes`` or ``reset_head`` put a new head on an image classifier; by default a
    number of classes that is not the model's does. ``ablation`` evaluates the trained model once
    more without the blocks that were added. ``task_options`` are those that the model's task has
    beside the fields here and of DataOptions, by name.
    """

    recipe: str | Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    resume: bool = False
    num_classes: int | None = None
    reset_head: bool = False
    device: str = "auto"
    work: Work = field(default_factory=Work)
    ablation: bool = True
    task_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for, as each kind of task gets it.

    ``described`` is the model of the bundle ``source``. ``start`` is the bundle to train from: the
    same one, or that which a resumed run began with. ``flags`` is the task's own record.
    """

    source: Bundle
    described: DescribedModel
    start: Bundle
    data: DataOptions
    flags: Any


@dataclass(frozen=True, slots=True)
class Parts:
    """What a kind of task makes of a request. ``subject`` reads the weights.

    ``classes`` says how it is known which classes the head of an image classifier answers.
    """

    start: Start
    task: TrainingTask
    record: RunRecord
    subject: Callable[[], TrainedModel]
    notes: tuple[str, ...] = ()
    look: Look | None = None
    classes: HeadClasses | None = None


Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]
Skip = Literal["none", "new", "all"]
Template = Literal["auto", "chat", "alpaca", "none"]


@dataclass(frozen=True, slots=True)
class DiagnoseOptions:
    """Which samples, and how much is measured on them.

    ``split`` is by default that for validation; a limit takes evenly spaced samples. ``skip`` says
    which instances are skipped one by one; with any but ``none``, adapters are removed too, one
    instance at a time. ``depths`` is the number of histograms. ``cka_tokens`` compares so many
    tokens of every sample instead of their mean. ``preprocessing`` has timm's names and overrides
    each model's own. ``max_length`` is in tokens, by default 512 or what the model is made for;
    ``template`` says how records become text, as in a training recipe. ``task_options`` are those
    that the model's task has beside the fields here, by name.
    """

    split: str | None = None
    dataset: str = ""
    class_map: str | None = None
    limit: int = 256
    skip_corrupt: bool = False
    skip: Skip = "new"
    depths: int = 6
    cka_tokens: int | None = None
    batch_size: int | None = None
    device: Device = "auto"
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str | None = None
    max_length: int | None = None
    template: Template = "auto"
    task_options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"limit": 2, "depths": 1, "cka_tokens": 1, "batch_size": 1, "max_length": 2}
        given = (self.limit, self.depths, self.cka_tokens, self.batch_size, self.max_length)
        for (name, smallest), value in zip(least.items(), given, strict=True):
            if value is not None and value < smallest:
                raise OptionError(f"{name} is {value}, and has to be at least {smallest}")


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One diagnosis: which models, on what, and how. ``flags`` is the task's own record."""

    target: str
    against: str | None
    data: str
    task: str
    how: DiagnoseOptions
    options: SourceOptions
    flags: Any

    def options_of(self, target: str) -> SourceOptions:
        """How to read one of the two: a bundle knows its architecture, a checkpoint may not."""
        if is_bundle(bundle_folder(Path(target))):
            return SourceOptions(seed=self.options.seed)
        return self.options


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One evaluation, as the command line asks for it.

    ``flags`` is the task's own record. ``wanted`` are metrics that have to come out: an evaluation
    that cannot give them is refused before anything is computed.
    """

    target: str
    options: SourceOptions
    data: tuple[str, ...]
    flags: Any
    split: str | None = None
    limit: int | None = None
    batch_size: int | None = None
    device: Device = "auto"
    precision: Precision | None = None
    compile: bool = False
    wanted: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """The report of an evaluation, and what a terminal shows of it.

    ``found`` are metrics by the place of the data, which is empty where there is only one.
    """

    report: Report
    lines: tuple[str, ...]
    notes: tuple[str, ...]
    found: tuple[tuple[str, Mapping[str, float]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """A batch for a model with ``num_outputs`` classes or tokens, of inputs of one size."""

    model: "nn.Module"
    family: Family
    size: int
    batch_size: int
    num_outputs: int
    device: "torch.device"
    autocast: "torch.dtype | None" = None
    channels_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataRequest:
    """Data for a model without weights, whose head the task may replace in place."""

    target: Target
    model: "nn.Module"
    data: DataOptions
    num_classes: int | None = None
    reset_head: bool = False
