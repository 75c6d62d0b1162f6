"""Sets up a run of a causal language model: records, tokenizer, sequences."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scalenet_cli.bundle.read import read_manifest
from scalenet_cli.commands.finetune_setup import Parts, Request, tool_name, train_set
from scalenet_cli.commands.loading import load_bundle
from scalenet_cli.commands.opening import describe
from scalenet_cli.commands.options import SourceOptions
from scalenet_cli.errors import DataNotFound, OptionError
from scalenet_cli.language.examples import ExampleMaker
from scalenet_cli.language.records import Record, read_records
from scalenet_cli.language.sequences import Sequences, tokenize
from scalenet_cli.language.task import LanguageTask
from scalenet_cli.language.tokenizers import check_vocabulary, load_tokenizer
from scalenet_cli.plan.training import LanguageRecipe
from scalenet_cli.training.data import DataOptions
from scalenet_cli.training.run_folder import RunRecord, SplitRecord
from scalenet_cli.training.subject import Subject

# Tokens of a sequence, where neither recipe nor model says less; Alpaca's.
DEFAULT_LENGTH: Final = 512


def prepare_language(request: Request, recipe: LanguageRecipe) -> Parts:
    """Task, record and model of a run; the model's weights are read when they are asked for.

    Raises:
        DataError, OptionError, CheckpointError: the data or the tokenizer cannot be used.
    """
    data, folder = request.data, request.source.folder
    _refuse_image_options(request)
    config: Any = describe(str(folder), SourceOptions()).model.config
    max_length = _max_length(recipe, int(config.max_position_embeddings))
    words = Path(data.tokenizer or folder)
    tokenizer = load_tokenizer(words)
    check_vocabulary(tokenizer, config.vocab_size, str(words))
    maker = ExampleMaker(tokenizer, recipe.template, train_on_prompt=recipe.train_on_prompt)
    splits = _open(data, recipe)
    prepare = _Preparing(maker, tokenizer, max_length, config.vocab_size)
    train = prepare.sequences(splits.train, data.data)
    val = prepare.sequences(splits.val, data.val_data or data.data)
    task = LanguageTask(recipe, train, val, max_length=max_length, place=data.data)
    record = RunRecord(
        tool=tool_name(),
        bundle=read_manifest(folder).digest,
        train=SplitRecord(num_samples=len(train), digest=train.digest),
        val=SplitRecord(num_samples=len(val), digest=val.digest),
        task="language",
    )
    notes = (
        *splits.notes,
        _told("training", splits.train, train, maker.template),
        _told("validation", splits.val, val, maker.template),
    )
    return Parts(task, record, lambda: _subject(request, recipe), notes)


def _max_length(recipe: LanguageRecipe, context: int) -> int:
    """Tokens of the longest sequence.

    Raises:
        OptionError: the model is made for fewer.
    """
    if recipe.max_length is not None and recipe.max_length > context:
        raise OptionError(
            f"max_length is {recipe.max_length}, but the model is made for {context} tokens",
            hint=f"--set max_length={context} or less",
        )
    return recipe.max_length or min(DEFAULT_LENGTH, context)


@dataclass(frozen=True, slots=True)
class _Splits:
    train: list[Record]
    val: list[Record]
    notes: tuple[str, ...] = ()


def _open(data: DataOptions, recipe: LanguageRecipe) -> _Splits:
    """Records of both splits; where the data have one only, a share of it is held out."""
    train = read_records(data.data, data.train_split)
    notes: tuple[str, ...] = ()
    if data.val_data is not None:
        val = read_records(data.val_data, data.val_split)
    else:
        found = _validation(data)
        if found is None:
            train, found = hold_out(train, recipe.val_share, data.data)
            notes = (f"{len(found):,} records are held out for validation (val_share)",)
        val = found
    return _Splits(_limited(train, data.limit_train), _limited(val, data.limit_val), notes)


def _validation(data: DataOptions) -> list[Record] | None:
    """The split for validation; None of a file, and of data that have no such split."""
    if Path(data.data).is_file():
        return None
    try:
        return read_records(data.data, data.val_split)
    except DataNotFound:
        if data.val_split != DataOptions(data.data).val_split:
            raise
        return None


def hold_out(records: list[Record], share: float, where: str) -> tuple[list[Record], list[Record]]:
    """Evenly spaced records for validation, and the others.

    Raises:
        OptionError: none would be held out, or none would be left.
    """
    count = round(share * len(records))
    if not 0 < count < len(records):
        raise OptionError(
            f"of {len(records)} records val_share {share:g} holds {count} out for validation",
            where=where,
            hint="give --val-data, or another --set val_share",
        )
    chosen = {order * len(records) // count for order in range(count)}
    held = [record for at, record in enumerate(records) if at in chosen]
    return [record for at, record in enumerate(records) if at not in chosen], held


def _limited(records: list[Record], limit: int | None) -> list[Record]:
    if limit is None or limit >= len(records):
        return records
    return [records[order * len(records) // limit] for order in range(limit)]


@dataclass(frozen=True, slots=True)
class _Preparing:
    """How records become sequences."""

    maker: ExampleMaker
    tokenizer: Any
    max_length: int
    num_embeddings: int

    def sequences(self, records: Iterable[Record], where: str) -> Sequences:
        """See tokenize."""
        examples = (self.maker.make(record) for record in records)
        return tokenize(examples, self.tokenizer, self.max_length, self.num_embeddings, where)


def _told(name: str, records: list[Record], found: Sequences, template: str) -> str:
    """What became of the records of a split."""
    facts = [
        f"{len(records):,} records ({template} template) are {len(found):,} sequences of "
        f"{len(found.tokens):,} tokens, {int(found.is_target.sum()):,} of them targets"
    ]
    if found.num_cut:
        facts.append(f"{found.num_cut:,} were cut to max_length")
    if found.num_dropped:
        facts.append(f"{found.num_dropped:,} have nothing to learn and were left out")
    return f"{name}: {'; '.join(facts)}"


def _subject(request: Request, recipe: LanguageRecipe) -> Subject:
    loaded = load_bundle(request.start, check=True)
    return Subject(
        loaded.model,
        loaded.family,
        loaded.layout,
        loaded.groups,
        train_set(loaded, recipe),
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
