"""``scalenet eval`` of language models: perplexity, multiple choice, tasks of lm-eval."""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.reports.base import Report
from scalenet_cli.tasks.base import Device, EvalRequest, EvalResult, Precision, Progress
from scalenet_cli.tasks.causal_lm.data.templates import Chosen, Template
from scalenet_cli.tasks.causal_lm.options import EvalFlags


@dataclass(frozen=True, slots=True)
class LanguageOptions:
    """What to measure on, and how.

    ``data`` are files, folders or ``hf:`` references; records of text give perplexity, records
    {query, choices, gold} give accuracy, and records to finetune on the perplexity of their
    answers, written by ``template``. ``tasks`` are lm-eval's names, or those of descriptions below
    ``include_path``, whose code is run. A limit takes evenly spaced records of each data, and the
    first of each task. ``context`` is by default 1024 for perplexity, 512 for answers, or what the
    model is made for where that is less, and for questions what it is made for. ``precision``
    converts the tensors; by default they stay as they are stored.
    """

    data: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    num_fewshot: int | None = None
    apply_chat_template: bool = False
    include_path: Path | None = None
    split: str | None = None
    limit: int | None = None
    context: int | None = None
    stride: int | None = None
    delimiter: str = " "
    template: Template = "auto"
    tokenizer: str | None = None
    batch_size: int = 8
    device: Device = "auto"
    precision: Precision | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "batch_size": 1, "num_fewshot": 0}
        given = (self.limit, self.batch_size, self.num_fewshot)
        for (name, smallest), value in zip(least.items(), given, strict=True):
            if value is not None and value < smallest:
                raise OptionError(f"{name} is {value}, and has to be at least {smallest}")
        self._refuse_without_tasks()
        twice = [name for name in self.tasks if self.tasks.count(name) > 1]
        if twice:
            raise OptionError(f"--tasks has {twice[0]} twice")

    def _refuse_without_tasks(self) -> None:
        """Options of lm-eval would change nothing of data."""
        given = {
            "--num-fewshot": self.num_fewshot is not None,
            "--apply-chat-template": self.apply_chat_template,
            "--include-path": self.include_path is not None,
        }
        name = next((name for name, is_given in given.items() if is_given), None)
        if name is not None and not self.tasks:
            raise OptionError(f"{name} is for --tasks: questions in files come as they are")


class PerplexityReport(Report):
    """How well a model predicts the text of documents, each by itself."""

    data: str = Field(description="the file, folder or data set that was read")
    num_documents: int = Field(description="records, each counted once")
    num_empty: int = Field(description="documents of less than two tokens, which have no target")
    num_windowed: int = Field(description="documents longer than one window")
    num_tokens: int = Field(description="with the special tokens that the tokenizer adds")
    num_targets: int = Field(description="tokens that were predicted: all but the first of each")
    loss: float = Field(description="mean of -log p over all targets, in nats")
    perplexity: float = Field(description="e to the power of `loss`; null where that overflows")
    bits_per_byte: float = Field(description="-log2 p of all targets / bytes of all text")
    context: int = Field(description="tokens of a window")
    stride: int = Field(description="tokens from one window's beginning to the next one's")
    seconds: float = Field(description="of the main process")
    tokens_per_second: float = Field(description="`num_targets` / `seconds`, of all processes")


class AnswerReport(Report):
    """How well a model predicts the answers of records: the metric of finetuning."""

    data: str = Field(description="the file, folder or data set that was read")
    template: Chosen = Field(description="what writes the records")
    num_records: int = Field(description="each counted once")
    num_cut: int = Field(description="records that lost their end")
    num_dropped: int = Field(description="records without an answer to predict, or that lost it")
    num_targets: int = Field(description="tokens that were predicted")
    loss: float = Field(description="mean of -log p over all targets, in nats")
    perplexity: float = Field(description="e to the power of `loss`; null where that overflows")
    context: int = Field(description="most tokens of a record")
    seconds: float = Field(description="of the main process")


class ChoiceReport(Report):
    """Which choices a model prefers. Shares are from 0 to 1."""

    data: str = Field(description="the file, folder or data set that was read")
    num_questions: int = Field(description="records, each counted once")
    num_truncated: int = Field(description="questions whose beginning did not fit the context")
    acc: float = Field(description="share whose most probable choice is right")
    acc_stderr: float | None = Field(description="its standard error; null of one question")
    acc_norm: float = Field(description="share by log p per character of the choice")
    acc_norm_stderr: float | None = Field(description="its standard error")
    context: int = Field(description="most tokens of a question and a choice")
    seconds: float = Field(description="of the main process")


class TaskReport(Report):
    """What lm-eval says of one of its tasks."""

    task: str = Field(description="lm-eval's name, also of a group's parts")
    num_samples: int = Field(description="samples that were counted; 0 for a group")
    num_fewshot: int = Field(description="examples before each question")
    chat_template: bool = Field(description="whether each question was a user's message")
    metrics: dict[str, float] = Field(description="lm-eval's names, with a filter after a comma")
    standard_errors: dict[str, float | None] = Field(description="of the metrics that have one")


class LanguageReport(Report):
    """What a language model does on texts, questions and tasks, in the order they were given."""

    target: str = Field(description="as it was given")
    architecture: str = Field(description="the config's `model_type`")
    perplexity: tuple[PerplexityReport, ...] = Field(description="one per data of text")
    answers: tuple[AnswerReport, ...] = Field(description="one per data of records to finetune on")
    choices: tuple[ChoiceReport, ...] = Field(description="one per data of questions")
    tasks: tuple[TaskReport, ...] = Field(description="one per task of lm-eval")
    dtype: str = Field(description="types of the parameters")
    device: str = Field(description="kind of device")
    num_processes: int = Field(description="processes that shared the work")
    batch_size: int = Field(description="sequences of one process at a time")
    notes: tuple[str, ...] = Field(description="decisions that the user should hear of")

    @property
    def found(self) -> list[tuple[str, dict[str, float]]]:
        """Where each metric was found: what thresholds are compared with."""
        names = ("perplexity", "loss", "bits_per_byte")
        rows = [(one.data, {name: getattr(one, name) for name in names}) for one in self.perplexity]
        rows += [(a.data, {"perplexity": a.perplexity, "loss": a.loss}) for a in self.answers]
        rows += [(one.data, {"acc": one.acc, "acc_norm": one.acc_norm}) for one in self.choices]
        return rows + [(one.task, dict(one.metrics)) for one in self.tasks]


@dataclass(frozen=True, slots=True)
class LanguageEvaluation:
    """One evaluation: the target, how, and which metrics the data have to give."""

    target: str
    how: LanguageOptions
    options: SourceOptions = field(default_factory=SourceOptions)
    wanted: frozenset[str] = frozenset()


def evaluate_request(request: EvalRequest, progress: Progress | None) -> EvalResult:
    """The evaluation that the command line asks for; see tasks.base.Task.evaluate."""
    from scalenet_cli.tasks.causal_lm.evaluation.lines import report_lines

    flags = request.flags
    assert isinstance(flags, EvalFlags)
    names = () if flags.tasks is None else tuple(name.strip() for name in flags.tasks.split(","))
    how = LanguageOptions(
        data=request.data,
        tasks=names,
        num_fewshot=flags.num_fewshot,
        apply_chat_template=flags.apply_chat_template,
        include_path=flags.include_path,
        split=request.split,
        limit=request.limit,
        context=flags.context,
        stride=flags.stride,
        delimiter=flags.delimiter,
        template=flags.template,
        tokenizer=flags.tokenizer,
        batch_size=request.batch_size or 8,
        device=request.device,
        precision=request.precision,
        compile=request.compile,
    )
    report = evaluate_language(
        request.target, how, options=request.options, wanted=request.wanted, progress=progress
    )
    return EvalResult(
        report=report,
        lines=tuple(report_lines(report)),
        notes=report.notes,
        found=tuple(report.found),
    )


def evaluate_language(
    target: str | Path,
    how: LanguageOptions,
    *,
    options: SourceOptions | None = None,
    wanted: frozenset[str] = frozenset(),
    progress: Progress | None = None,
) -> LanguageReport:
    """Perplexity, accuracy and tasks of a bundle, a run or a transformers checkpoint.

    Where a launcher started several processes, they share windows and questions, and all return the
    same numbers. ``wanted`` are metrics that have to come out: told before anything is computed.

    Raises:
        ScalenetError: the target, the data or an option cannot be used.
    """
    if not how.data and not how.tasks:
        raise OptionError(
            "--data is missing",
            hint="--data takes records of text or questions, --tasks names of lm-eval",
        )
    from scalenet_cli.tasks.causal_lm.evaluation.session import run_language_evaluation

    work = LanguageEvaluation(str(target), how, options or SourceOptions(), wanted)
    return run_language_evaluation(work, progress)
