"""Sets up a run of a causal language model: records, tokenizer, sequences."""

from pathlib import Path
from typing import Any

from scalenet_cli.bundle.read import read_manifest
from scalenet_cli.commands.finetune_setup import Parts, Request, tool_name, train_set
from scalenet_cli.commands.loading import load_bundle
from scalenet_cli.commands.opening import describe
from scalenet_cli.commands.options import SourceOptions
from scalenet_cli.errors import OptionError
from scalenet_cli.language.corpus import open_corpus
from scalenet_cli.language.task import LanguageTask
from scalenet_cli.plan.training import LanguageRecipe
from scalenet_cli.training.run_folder import RunRecord, SplitRecord
from scalenet_cli.training.subject import Subject


def prepare_language(request: Request, recipe: LanguageRecipe) -> Parts:
    """Task, record and model of a run; the model's weights are read when they are asked for.

    Raises:
        DataError, OptionError, CheckpointError: the data or the tokenizer cannot be used.
    """
    data, folder = request.data, request.source.folder
    _refuse_image_options(request)
    config: Any = describe(str(folder), SourceOptions()).model.config
    corpus = open_corpus(Path(data.tokenizer or folder), config, recipe, data)
    record = RunRecord(
        tool=tool_name(),
        bundle=read_manifest(folder).digest,
        train=SplitRecord(num_samples=len(corpus.train), digest=corpus.train.digest),
        val=SplitRecord(num_samples=len(corpus.val), digest=corpus.val.digest),
        task="language",
    )
    task = LanguageTask(recipe, corpus, place=data.data)
    return Parts(task, record, lambda: _subject(request, recipe), corpus.notes)


def _subject(request: Request, recipe: LanguageRecipe) -> Subject:
    loaded = load_bundle(request.start, check=True)
    return Subject(
        loaded.model,
        loaded.family,
        loaded.layout,
        loaded.groups,
        train_set(loaded.groups, loaded.train, recipe),
        loaded.base_keys,
        loaded.bundle,
        loaded.bundle.manifest,
    )


def _refuse_image_options(request: Request) -> None:
    data, options = request.data, request.options
    given = {
        "--dataset": data.dataset,
        "--class-map": data.class_map,
        "--num-classes": options.num_classes,
        "--reset-head": options.reset_head,
        "--skip-corrupt": data.skip_corrupt,
    }
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise OptionError(f"{wrong[0]} is for image classifiers, and this is a language model")
