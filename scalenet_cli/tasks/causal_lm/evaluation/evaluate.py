"""``scalenet eval`` of language models: perplexity, multiple choice, tasks of lm-eval."""

from pathlib import Path

from scalenet_cli.errors import OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.tasks.causal_lm.evaluation.options import LanguageEvaluation, LanguageOptions
from scalenet_cli.tasks.causal_lm.evaluation.report import LanguageReport
from scalenet_cli.tasks.causal_lm.options import EvalFlags
from scalenet_cli.tasks.requests import EvalRequest, EvalResult, Progress


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
