"""One run of ``scalenet eval`` on a language model: records, a model, a device, reports."""

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from scalenet_cli.errors import OptionError
from scalenet_cli.models.target import use_target
from scalenet_cli.tasks.causal_lm.evaluation.answers import measure_answers
from scalenet_cli.tasks.causal_lm.evaluation.choices import measure_choices
from scalenet_cli.tasks.causal_lm.evaluation.data import Data, prepared, read_data, require_metrics
from scalenet_cli.tasks.causal_lm.evaluation.lm_eval_tasks import (
    check_tasks,
    require_chat_template,
    run_tasks,
)
from scalenet_cli.tasks.causal_lm.evaluation.perplexity import choose_windows, measure_perplexity
from scalenet_cli.tasks.causal_lm.evaluation.report import (
    AnswerReport,
    ChoiceReport,
    LanguageReport,
    PerplexityReport,
    TaskReport,
)
from scalenet_cli.tasks.causal_lm.load_model import OpenedLanguageModel, load_language_model
from scalenet_cli.training.compiling import compile_blocks, compiling
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.failures import explained
from scalenet_cli.training.join_ranks import joined, require_same_evaluation

if TYPE_CHECKING:
    from scalenet_cli.tasks.causal_lm.evaluation.options import LanguageEvaluation, LanguageOptions
    from scalenet_cli.tasks.requests import Progress


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
        session = devices.run_on_all_ranks(lambda: _open(work, devices))
        require_same_evaluation(devices, work.target, lambda: _facts(session.data))
        heard = progress if devices.is_main else None
        advice = f"use a smaller --batch-size than {how.batch_size}, or a shorter --context"
        compiled = compiling() if how.compile else nullcontext()
        with explained(memory=advice, worker=advice), compiled:
            session.opened.model.to(devices.device)
            if how.compile:
                compile_blocks(session.opened.model, session.opened.family)
            return _run(work.target, session, heard)


def _facts(data: Sequence[Data]) -> dict[str, str]:
    """A digest of the records of every place."""
    facts = {}
    for order, one in enumerate(data):
        digest = sha256()
        for record in one.records:
            digest.update(repr(record.fields).encode(errors="surrogatepass"))
        facts[f"data {order}"] = digest.hexdigest()
    return facts


def _open(work: "LanguageEvaluation", devices: Devices) -> LanguageSession:
    """Everything that can be wrong is found here: data first, because reading them is quick."""
    how = work.how
    if how.tasks and devices.num_ranks > 1:
        raise OptionError(
            f"--tasks runs in one process, but {devices.num_ranks} were started",
            hint="leave out the launcher; questions in files are shared among processes",
        )
    index = check_tasks(how.tasks, how.include_path) if how.tasks else None
    data = [read_data(place, work) for place in how.data]
    require_metrics(work, data)
    opened = use_target(
        work.target,
        lambda target: load_language_model(
            target, tokenizer=how.tokenizer, precision=how.precision
        ),
        work.options,
    )
    choose_windows(opened.num_positions, how.context, how.stride)
    if how.apply_chat_template:
        require_chat_template(opened.tokenizer)
    data = [prepared(one, opened, work) for one in data]
    return LanguageSession(opened=opened, data=data, index=index, devices=devices, how=how)


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
        notes=(
            *session.opened.notes,
            *(f"{one.place}: {note}" for one in session.data for note in one.notes),
        ),
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
