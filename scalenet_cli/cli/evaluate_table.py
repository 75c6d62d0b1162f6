"""How an evaluation looks: numbers on stdout, a progress bar on a terminal's stderr."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import typer

from scalenet_cli.cli.progress import bars

if TYPE_CHECKING:
    from scalenet_cli.tasks.causal_lm.evaluation.evaluate import (
        AnswerReport,
        ChoiceReport,
        LanguageReport,
        PerplexityReport,
    )
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import EvalReport, Progress

_SHOWN = 20


def show(facts: "EvalReport") -> None:
    """Numbers, and the images that were left out."""
    processes = f", {facts.num_processes} processes" if facts.num_processes > 1 else ""
    typer.echo(
        f"{facts.architecture} on {facts.data}: {facts.precision} on {facts.device}{processes}"
    )
    rows = [
        ("images", f"{facts.num_images:,}"),
        ("top-1", f"{facts.top1:.2f} %  ({facts.correct1:,} images)"),
        ("top-5", f"{facts.top5:.2f} %  ({facts.correct5:,} images)"),
        ("loss", f"{facts.loss:.4f}"),
        ("corrupt", f"{facts.num_corrupt:,}"),
        ("images per second", f"{facts.images_per_second:,.1f}"),
    ]
    for name, value in rows:
        typer.echo(f"{name:<18} {value}")
    for image in facts.corrupt[:_SHOWN]:
        typer.echo(f"corrupt: {_printable(image.name)}: {_printable(image.reason)}")
    if len(facts.corrupt) > _SHOWN:
        typer.echo(f"corrupt: {len(facts.corrupt) - _SHOWN} more; --json lists them all")
    for name in facts.files:
        typer.echo(f"written to {name}")


def show_language(facts: "LanguageReport") -> None:
    """One block of numbers per data and per task."""
    processes = f", {facts.num_processes} processes" if facts.num_processes > 1 else ""
    typer.echo(f"{facts.architecture}: {facts.dtype} on {facts.device}{processes}")
    for text in facts.perplexity:
        _show_text(text)
    for answers in facts.answers:
        _show_answers(answers)
    for asked in facts.choices:
        _show_choices(asked)
    for task in facts.tasks:
        found = [(k, _with_error(v, task.standard_errors.get(k))) for k, v in task.metrics.items()]
        how = f"{task.num_fewshot}-shot{', chat template' if task.chat_template else ''}"
        _block(f"{task.task}: {task.num_samples:,} samples, {how}", found)


def _show_text(text: "PerplexityReport") -> None:
    _block(
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


def _show_answers(answers: "AnswerReport") -> None:
    _block(
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


def _show_choices(asked: "ChoiceReport") -> None:
    _block(
        f"{asked.data}: up to {asked.context} tokens",
        [
            ("questions", f"{asked.num_questions:,}"),
            ("truncated", f"{asked.num_truncated:,}"),
            ("acc", _with_error(asked.acc, asked.acc_stderr)),
            ("acc_norm", _with_error(asked.acc_norm, asked.acc_norm_stderr)),
        ],
    )


def _block(title: str, rows: list[tuple[str, str]]) -> None:
    typer.echo(f"\n{_printable(title)}")
    for name, value in rows:
        typer.echo(f"{name:<18} {value}")


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.4f}" if error is None else f"{value:.4f} +- {error:.4f}"


def _printable(text: str) -> str:
    """Names of files, and what decoders say of them, may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def progress() -> "Iterator[Progress | None]":
    """A bar where stderr is a terminal, and nothing elsewhere."""
    with bars() as tick:
        yield None if tick is None else partial(tick, "batches")
