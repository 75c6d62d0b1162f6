"""What ``scalenet eval`` reports of a language model."""

from pydantic import Field

from scalenet_cli.reports.base import Report
from scalenet_cli.tasks.causal_lm.data.templates import Chosen


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
