"""What a terminal shows of an evaluation of a language model."""

from collections.abc import Iterator

from scalenet_cli.reports.printable import printable
from scalenet_cli.tasks.causal_lm.evaluation.report import (
    AnswerReport,
    ChoiceReport,
    LanguageReport,
    PerplexityReport,
)


def report_lines(facts: LanguageReport) -> Iterator[str]:
    """One block of numbers per data and per task."""
    processes = f", {facts.num_processes} processes" if facts.num_processes > 1 else ""
    yield f"{facts.architecture}: {facts.dtype} on {facts.device}{processes}"
    for text in facts.perplexity:
        yield from _lines_of_text(text)
    for answers in facts.answers:
        yield from _lines_of_answers(answers)
    for asked in facts.choices:
        yield from _lines_of_choices(asked)
    for task in facts.tasks:
        found = [(k, _with_error(v, task.standard_errors.get(k))) for k, v in task.metrics.items()]
        how = f"{task.num_fewshot}-shot{', chat template' if task.chat_template else ''}"
        yield from _block(f"{task.task}: {task.num_samples:,} samples, {how}", found)


def _lines_of_text(text: PerplexityReport) -> Iterator[str]:
    yield from _block(
        f"{text.data}: windows of {text.context} tokens, every {text.stride}",
        [
            ("documents", f"{text.num_documents:,}"),
            ("empty", f"{text.num_empty:,}"),
            ("several windows", f"{text.num_windowed:,}"),
            ("tokens", f"{text.num_tokens:,}  ({text.num_targets:,} predicted)"),
            ("perplexity", f"{text.perplexity:.4f}"),
            ("loss", f"{text.loss:.4f} nats per token"),
            ("bits per byte", f"{text.bits_per_byte:.4f}"),
            ("tokens per second", f"{text.tokens_per_second:,.1f}"),
        ],
    )


def _lines_of_answers(answers: AnswerReport) -> Iterator[str]:
    yield from _block(
        f"{answers.data}: answers, {answers.template} template, up to {answers.context} tokens",
        [
            ("records", f"{answers.num_records:,}"),
            ("cut", f"{answers.num_cut:,}"),
            ("left out", f"{answers.num_dropped:,}"),
            ("tokens", f"{answers.num_targets:,} predicted"),
            ("perplexity", f"{answers.perplexity:.4f}"),
            ("loss", f"{answers.loss:.4f} nats per token"),
        ],
    )


def _lines_of_choices(asked: ChoiceReport) -> Iterator[str]:
    yield from _block(
        f"{asked.data}: up to {asked.context} tokens",
        [
            ("questions", f"{asked.num_questions:,}"),
            ("truncated", f"{asked.num_truncated:,}"),
            ("acc", _with_error(asked.acc, asked.acc_stderr)),
            ("acc_norm", _with_error(asked.acc_norm, asked.acc_norm_stderr)),
        ],
    )


def _block(title: str, rows: list[tuple[str, str]]) -> Iterator[str]:
    yield f"\n{printable(title)}"
    for name, value in rows:
        yield f"{name:<18} {value}"


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} +- {error:.4f}"
