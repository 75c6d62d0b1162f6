"""Sets up a run of a causal language model: records, tokenizer, sequences."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scalenet_cli.bundle.trained import Start, start_with
from scalenet_cli.families.sources.carried import is_tokenizer_file, tokenizer_files
from scalenet_cli.models.load import load_weights
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.tasks.causal_lm import NAME
from scalenet_cli.tasks.causal_lm.data.corpus import Corpus, open_corpus
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.tasks.causal_lm.training_task import LanguageTask
from scalenet_cli.tasks.requests import Parts, Request
from scalenet_cli.training.run_record import RunRecord, SplitRecord
from scalenet_cli.training.trained_groups import train_set
from scalenet_cli.version import TOOL


def prepare_language(request: Request, recipe: LanguageRecipe) -> Parts:
    """Task, record and model of a run; the model's weights are read when they are asked for.

    Raises:
        DataError, OptionError, CheckpointError: the data or the tokenizer cannot be used.
    """
    data, folder = request.data, request.source.folder
    model: Any = request.described.model
    # A run that goes on has the tokenizer that it began with.
    words = Path(data.tokenizer or request.start.folder)
    corpus = open_corpus(words, model.config, recipe, data)
    start = start_with(request.source, tokenizer_files(words), is_tokenizer_file)
    record = RunRecord(
        tool=TOOL,
        bundle=start.manifest.digest,
        train=SplitRecord(num_samples=len(corpus.train), digest=corpus.train.digest),
        val=SplitRecord(num_samples=len(corpus.val), digest=corpus.val.digest),
        task=NAME,
    )
    task = LanguageTask(recipe, corpus, place=data.data)
    notes = (*corpus.notes, *(_told(start) if request.start.folder == folder else ()))
    return Parts(
        start=start,
        task=task,
        record=record,
        subject=lambda: _trained_model(request, recipe, corpus),
        notes=notes,
    )


def _told(start: Start) -> Iterator[str]:
    if start.outside:
        folder = next(iter(start.outside.values())).parent
        yield f"the run's bundles get {', '.join(sorted(start.outside))} of {folder}"


def _trained_model(request: Request, recipe: LanguageRecipe, corpus: Corpus) -> TrainedModel:
    loaded = load_weights(request.described, request.start)
    return TrainedModel(
        model=loaded.model,
        family=loaded.family,
        layout=loaded.layout,
        groups=loaded.groups,
        train=train_set(loaded.groups, loaded.train, recipe),
        base_keys=loaded.base_keys,
        bundle=request.start,
        manifest=request.start.manifest,
        template=corpus.template,
    )
