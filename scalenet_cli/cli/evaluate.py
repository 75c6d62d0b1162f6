"""``scalenet eval``."""

from typing import TYPE_CHECKING

import typer

from scalenet_cli.cli import evaluate_options as given
from scalenet_cli.cli.options import (
    Arch,
    Json,
    ModelKwargs,
    RandomWeights,
    Seed,
    Target,
    preprocessing,
    source_options,
)

if TYPE_CHECKING:
    from scalenet_cli.models.source_options import SourceOptions
    from scalenet_cli.tasks.causal_lm.evaluation.evaluate import LanguageOptions
    from scalenet_cli.tasks.find_task import TargetTask
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import EvalOptions


def evaluate(
    context_: typer.Context,
    target: Target,
    data: given.Data = None,
    split: given.Split = None,
    dataset: given.Dataset = "",
    class_map: given.ClassMap = None,
    limit: given.Limit = None,
    skip_corrupt: given.SkipCorrupt = False,
    tasks: given.Tasks = None,
    num_fewshot: given.NumFewshot = None,
    apply_chat_template: given.ApplyChatTemplate = False,
    include_path: given.IncludePath = None,
    context: given.Context = None,
    stride: given.Stride = None,
    delimiter: given.Delimiter = " ",
    template: given.Template = "auto",
    tokenizer: given.Tokenizer = None,
    mean: given.Mean = None,
    std: given.Std = None,
    crop_pct: given.CropPct = None,
    crop_mode: given.CropMode = None,
    interpolation: given.Interpolation = None,
    input_size: given.InputSize = None,
    batch_size: given.BatchSize = None,
    workers: given.Workers = None,
    device: given.Device = "auto",
    precision: given.Precision = None,
    channels_last: given.ChannelsLast = False,
    compile_: given.Compile = False,
    fail_under: given.FailUnder = None,
    confusion: given.Confusion = None,
    predictions: given.Predictions = None,
    force: given.Force = False,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    random_weights: RandomWeights = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Evaluate an image classifier or a language model.

    Of images: top-1, top-5, loss. Of text: perplexity; of questions, and of lm-eval's tasks:
    accuracy. TARGET may also be a run's folder, of which the best bundle is taken. Under torchrun,
    processes share the data.
    """
    from scalenet_cli.tasks.causal_lm.evaluation.evaluate import LanguageOptions
    from scalenet_cli.tasks.find_task import task_of
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import EvalOptions
    from scalenet_cli.tasks.thresholds import parse_thresholds

    task = task_of(target)
    _refuse_others(context_, task, target)
    thresholds = {} if fail_under is None else parse_thresholds(fail_under, task)
    options = source_options(arch, model_kwargs, random_weights, seed)
    if task == "causal-lm":
        chosen = LanguageOptions(
            data=tuple(data or ()),
            tasks=() if tasks is None else tuple(name.strip() for name in tasks.split(",")),
            num_fewshot=num_fewshot,
            apply_chat_template=apply_chat_template,
            include_path=include_path,
            split=split,
            limit=limit,
            context=context,
            stride=stride,
            delimiter=delimiter,
            template=template,
            tokenizer=tokenizer,
            batch_size=batch_size or 8,
            device=device,
            precision=precision,
            compile=compile_,
        )
        _evaluate_language(target, chosen, options, thresholds, as_json=as_json)
        return
    how = EvalOptions(
        split=split or "validation",
        dataset=dataset,
        class_map=class_map,
        limit=limit,
        batch_size=batch_size or 256,
        workers=workers,
        skip_corrupt=skip_corrupt,
        device=device,
        precision=precision or "fp32",
        channels_last=channels_last,
        compile=compile_,
        preprocessing=preprocessing(mean, std, crop_pct, crop_mode, interpolation, input_size),
        confusion=confusion,
        predictions=predictions,
        force=force,
    )
    _evaluate_images(target, data or [], how, options, thresholds, as_json=as_json)


def _refuse_others(context: typer.Context, task: "TargetTask", target: str) -> None:
    """Options of the other kind of model would change nothing.

    Raises:
        OptionError: one was given.
    """
    from scalenet_cli.errors import OptionError

    others = given.FOR_IMAGES if task == "causal-lm" else given.FOR_LANGUAGE
    names = {option.name: option.opts[0] for option in context.command.params}
    for name in others:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            kinds = ("image classifiers", "a language model")
            own, found = kinds if task == "causal-lm" else ("language models", "none")
            raise OptionError(f"{names[name]} is for {own}, but this is {found}", where=target)


def _evaluate_images(
    target: str,
    data: list[str],
    how: "EvalOptions",
    options: "SourceOptions",
    thresholds: dict[str, float],
    *,
    as_json: bool,
) -> None:
    from scalenet_cli.cli import evaluate_table, render
    from scalenet_cli.errors import OptionError
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import evaluate as run
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import is_main_process
    from scalenet_cli.tasks.thresholds import require_thresholds

    if len(data) > 1:
        raise OptionError(f"--data is given {len(data)} times; for images it is one folder or tar")
    place = data[0] if data else None
    with evaluate_table.progress() as tick:
        report = run(target, place, how=how, options=options, progress=tick)
    if is_main_process():
        render.notes(report.notes)
        render.report(report, evaluate_table.show, as_json=as_json)
        found = {"top1": report.top1, "top5": report.top5, "loss": report.loss}
        require_thresholds([("", found)], thresholds)


def _evaluate_language(
    target: str,
    how: "LanguageOptions",
    options: "SourceOptions",
    thresholds: dict[str, float],
    *,
    as_json: bool,
) -> None:
    from scalenet_cli.cli import evaluate_table, render
    from scalenet_cli.tasks.causal_lm.evaluation.evaluate import evaluate_language
    from scalenet_cli.tasks.image_classification.evaluation.evaluate import is_main_process
    from scalenet_cli.tasks.thresholds import require_thresholds

    with evaluate_table.progress() as tick:
        report = evaluate_language(
            target, how, options=options, wanted=frozenset(thresholds), progress=tick
        )
    if is_main_process():
        render.notes(report.notes)
        render.report(report, evaluate_table.show_language, as_json=as_json)
        require_thresholds(report.found, thresholds, "causal-lm")
