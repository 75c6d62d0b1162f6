"""The records of a run as token sequences: which are for training, which for validation."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from scalenet_cli.errors import DataNotFound, OptionError
from scalenet_cli.language.examples import ExampleMaker
from scalenet_cli.language.records import Record, read_records
from scalenet_cli.language.sequences import Sequences, tokenize
from scalenet_cli.language.tokenizers import check_vocabulary, load_tokenizer
from scalenet_cli.plan.training import LanguageRecipe
from scalenet_cli.training.data import DataOptions, evenly_spaced

# Tokens of a sequence, where neither recipe nor model says less; Alpaca's.
DEFAULT_LENGTH: Final = 512


@final
@dataclass(frozen=True, slots=True)
class Corpus:
    """Both splits as sequences of at most ``max_length`` tokens, and what became of the records."""

    train: Sequences
    val: Sequences
    max_length: int
    notes: tuple[str, ...]


def open_corpus(words: Path, config: Any, recipe: LanguageRecipe, data: DataOptions) -> Corpus:
    """Reads and tokenises all records; ``words`` is the tokenizer's folder.

    ``config`` is the model's, of transformers.

    Raises:
        DataError, OptionError, CheckpointError: the data or the tokenizer cannot be used.
    """
    max_length = longest(recipe.max_length, int(config.max_position_embeddings), "max_length")
    tokenizer = load_tokenizer(words)
    check_vocabulary(tokenizer, config.vocab_size, str(words))
    maker = ExampleMaker(tokenizer, recipe.template, train_on_prompt=recipe.train_on_prompt)
    splits = _open(data, recipe)

    def sequences(records: Iterable[Record], where: str) -> Sequences:
        examples = (maker.make(record) for record in records)
        return tokenize(examples, tokenizer, max_length, config.vocab_size, where)

    train = sequences(splits.train, data.data)
    val = sequences(splits.val, data.val_data or data.data)
    told = (
        _told("training", splits.train, train, maker.template),
        _told("validation", splits.val, val, maker.template),
    )
    return Corpus(train, val, max_length, (*splits.notes, *told))


def longest(wanted: int | None, context: int, name: str) -> int:
    """Tokens of the longest sequence; ``name`` is what the user calls it.

    Raises:
        OptionError: the model is made for fewer.
    """
    if wanted is not None and wanted > context:
        raise OptionError(
            f"{name} is {wanted}, but the model is made for {context} tokens",
            hint=f"choose {context} or less",
        )
    return wanted or min(DEFAULT_LENGTH, context)


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
    return _Splits(limited(train, data.limit_train), limited(val, data.limit_val), notes)


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
    """Evenly spaced records for validation, and before them the others.

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
    chosen = set(evenly_spaced(len(records), count))
    held = [record for at, record in enumerate(records) if at in chosen]
    return [record for at, record in enumerate(records) if at not in chosen], held


def limited(records: list[Record], limit: int | None) -> list[Record]:
    """At most so many, evenly spaced."""
    if limit is None or limit >= len(records):
        return records
    return [records[at] for at in evenly_spaced(len(records), limit)]


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
