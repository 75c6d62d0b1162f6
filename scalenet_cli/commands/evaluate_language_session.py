"""One run of ``scalenet eval`` on a language model: records, a model, a device, reports."""

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from scalenet_cli.commands.evaluate_language import (
    AnswerReport,
    ChoiceReport,
    LanguageReport,
    PerplexityReport,
    TaskReport,
)
from scalenet_cli.commands.joining import joined
from scalenet_cli.commands.language_models import (
    OpenedLanguageModel,
    open_language_model,
    run_record,
)
from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.language.answers import Prepared, measure_answers, prepare_answers
from scalenet_cli.language.choices import is_question, measure_choices, read_question
from scalenet_cli.language.corpus import evaluation_records, longest
from scalenet_cli.language.examples import has_answer
from scalenet_cli.language.harness import check_tasks, require_chat_template, run_tasks
from scalenet_cli.language.perplexity import choose_windows, measure_perplexity
from scalenet_cli.language.records import HUB, Record, text_of
from scalenet_cli.training.compiling import compile_blocks, compiling
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.failures import explained

if TYPE_CHECKING:
    from scalenet_cli.commands.evaluate import Progress
    from scalenet_cli.commands.evaluate_language import LanguageEvaluation, LanguageOptions

Kind = Literal["texts", "questions", "answers"]

_METRICS: Final[Mapping[Kind, frozenset[str]]] = {
    "texts": frozenset({"perplexity", "loss", "bits_per_byte"}),
    "questions": frozenset({"acc", "acc_norm"}),
    "answers": frozenset({"perplexity", "loss"}),
}
_ONE: Final[Mapping[Kind, str]] = {
    "texts": "a text", "questions": "a question", "answers": "a record to finetune on",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Data:
    """Records of one kind from one place; answers become tokens as soon as the model is known."""

    place: str
    records: Sequence[Record]
    kind: Kind
    answers: Prepared | None = None


@dataclass(frozen=True, slots=True)
class LanguageSession:
    """What is evaluated, on what, and how. ``index`` is lm-eval's, where tasks are named."""

    opened: OpenedLanguageModel
    data: Sequence[Data]
    index: Any
    devices: Devices
    how: "LanguageOptions"


def run_language_evaluation(
    work: "LanguageEvaluation", progress: "Progress | None"
) -> LanguageReport:
    """Opens, evaluates and reports; see evaluate_language."""
    how = work.how
    with joined(how.device) as devices:
        session = devices.alike(lambda: _open(work, devices))
        heard = progress if devices.is_main else None
        advice = f"use a smaller --batch-size than {how.batch_size}, or a shorter --context"
        compiled = compiling() if how.compile else nullcontext()
        with explained(memory=advice, worker=advice), compiled:
            session.opened.model.to(devices.device)
            if how.compile:
                compile_blocks(session.opened.model, session.opened.family)
            return _run(work.target, session, heard)


def _open(work: "LanguageEvaluation", devices: Devices) -> LanguageSession:
    """Everything that can be wrong is found here: data first, because reading them is quick."""
    how = work.how
    if how.tasks and devices.num_ranks > 1:
        raise OptionError(
            f"--tasks runs in one process, but {devices.num_ranks} were started",
            hint="leave out the launcher; questions in files are shared among processes",
        )
    index = check_tasks(how.tasks, how.include_path) if how.tasks else None
    data = [_read(place, work) for place in how.data]
    _require_metrics(work, data)
    opened = open_language_model(
        work.target, work.options, tokenizer=how.tokenizer, precision=how.precision
    )
    choose_windows(opened.num_positions, how.context, how.stride)
    if how.apply_chat_template:
        require_chat_template(opened.tokenizer)
    data = [_prepared(one, opened, work) if one.kind == "answers" else one for one in data]
    return LanguageSession(opened, data, index, devices, how)


def _read(place: str, work: "LanguageEvaluation") -> Data:
    how = work.how
    records = evaluation_records(place, how.split, how.limit, target=work.target)
    kind = _kind(records[0])
    for record in records:
        if kind == "questions":
            read_question(record)
        elif _kind(record) != kind:
            raise DataUnreadable(
                f"{_ONE[_kind(record)]} among {kind}",
                where=record.place,
                hint="one kind of records per --data",
            )
        elif kind == "texts":
            text_of(record, "text")
    shown = f"{place} {how.split or 'validation'}" if place.startswith(HUB) else place
    return Data(shown, records, kind)


def _kind(record: Record) -> Kind:
    if is_question(record):
        return "questions"
    return "answers" if has_answer(record) else "texts"


def _require_metrics(work: "LanguageEvaluation", data: Sequence[Data]) -> None:
    """A threshold on what is not measured would never be missed."""
    if work.how.tasks:
        return
    given = {name for one in data for name in _METRICS[one.kind]}
    lacking = sorted(work.wanted - given)
    if lacking:
        raise OptionError(
            f"--fail-under names {lacking[0]}, but these data give {', '.join(sorted(given))}"
        )


def _run(target: str, session: LanguageSession, progress: "Progress | None") -> LanguageReport:
    texts = [_perplexity(session, one, progress) for one in session.data if one.kind == "texts"]
    answers = [_answers(session, one, progress) for one in session.data if one.kind == "answers"]
    choices = [_choices(session, one, progress) for one in session.data if one.kind == "questions"]
    dtypes = {str(p.dtype).removeprefix("torch.") for p in session.opened.model.parameters()}
    return LanguageReport(
        target=target,
        architecture=session.opened.architecture,
        perplexity=tuple(texts),
        answers=tuple(answers),
        choices=tuple(choices),
        tasks=tuple(_tasks(session)),
        dtype=", ".join(sorted(dtypes)),
        device=session.devices.device.type,
        num_processes=session.devices.num_ranks,
        batch_size=session.how.batch_size,
        notes=session.opened.notes,
    )


def _perplexity(
    session: LanguageSession, data: Data, progress: "Progress | None"
) -> PerplexityReport:
    opened, how = session.opened, session.how
    windows = choose_windows(opened.num_positions, how.context, how.stride)
    started = time.perf_counter()
    found = measure_perplexity(
        opened.model,
        opened.tokenizer,
        data.records,
        session.devices,
        windows=windows,
        batch_size=how.batch_size,
        progress=progress,
    )
    seconds = time.perf_counter() - started
    return PerplexityReport(
        data=data.place,
        num_documents=found.num_documents,
        num_empty=found.num_empty,
        num_windowed=found.num_windowed,
        num_tokens=found.num_tokens,
        num_targets=found.num_targets,
        loss=found.loss,
        perplexity=found.perplexity,
        bits_per_byte=found.bits_per_byte,
        context=windows.context,
        stride=windows.stride,
        seconds=seconds,
        tokens_per_second=found.num_targets / seconds,
    )


def _prepared(data: Data, opened: OpenedLanguageModel, work: "LanguageEvaluation") -> Data:
    how = work.how
    record = run_record(work.target) if how.template == "auto" else None
    answers = prepare_answers(
        data.records,
        opened.tokenizer,
        (record and record.template) or how.template,
        longest(how.context, opened.num_positions, "--context"),
        opened.num_embeddings,
        data.place,
    )
    return replace(data, answers=answers)


def _answers(session: LanguageSession, data: Data, progress: "Progress | None") -> AnswerReport:
    assert data.answers is not None
    started = time.perf_counter()
    sequences = data.answers.sequences
    found = measure_answers(
        session.opened.model,
        sequences,
        session.devices,
        batch_size=session.how.batch_size,
        place=data.place,
        progress=progress,
    )
    return AnswerReport(
        data=data.place,
        template=data.answers.template,
        num_records=len(data.records),
        num_cut=sequences.num_cut,
        num_dropped=sequences.num_dropped,
        num_targets=found.num_targets,
        loss=found.loss,
        perplexity=found.perplexity,
        context=data.answers.max_length,
        seconds=time.perf_counter() - started,
    )


def _choices(session: LanguageSession, data: Data, progress: "Progress | None") -> ChoiceReport:
    opened, how = session.opened, session.how
    context = opened.num_positions if how.context is None else how.context
    started = time.perf_counter()
    found = measure_choices(
        opened.model,
        opened.tokenizer,
        data.records,
        session.devices,
        context=context,
        batch_size=how.batch_size,
        delimiter=how.delimiter,
        progress=progress,
    )
    return ChoiceReport(
        data=data.place,
        num_questions=found.num_questions,
        num_truncated=found.num_truncated,
        acc=found.accuracy,
        acc_stderr=found.standard_error(found.accuracy),
        acc_norm=found.accuracy_norm,
        acc_norm_stderr=found.standard_error(found.accuracy_norm),
        context=context,
        seconds=time.perf_counter() - started,
    )


def _tasks(session: LanguageSession) -> list[TaskReport]:
    opened, how = session.opened, session.how
    if not how.tasks:
        return []
    found = run_tasks(
        opened.model,
        opened.tokenizer,
        how.tasks,
        index=session.index,
        context=opened.num_positions if how.context is None else how.context,
        batch_size=how.batch_size,
        num_fewshot=how.num_fewshot,
        limit=how.limit,
        apply_chat_template=how.apply_chat_template,
    )
    return [
        TaskReport(
            task=one.name,
            num_samples=one.num_samples,
            num_fewshot=one.num_fewshot,
            chat_template=how.apply_chat_template,
            metrics=dict(one.metrics),
            standard_errors=dict(one.standard_errors),
        )
        for one in found
    ]
