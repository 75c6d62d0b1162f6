"""The records of a run as token sequences: which are for training, which for validation."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, Final, final

from scalenet_cli.errors import DataNotFound, OptionError
from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker, is_plain
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of
from scalenet_cli.tasks.causal_lm.data.records import has_splits, is_text_data, read_records
from scalenet_cli.tasks.causal_lm.data.sequences import Sequences, shortfalls, tokenize
from scalenet_cli.tasks.causal_lm.data.templates import Chosen
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_vocabulary, load_tokenizer
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.training.data import DataOptions, evenly_spaced

# Tokens of a sequence, where neither recipe nor model says less; Alpaca's.
DEFAULT_LENGTH: Final = 512
# Where a text may be cut, the best first.
_BREAKS: Final = (re.compile(r"\n"), re.compile(r"\s"))


@final
@dataclass(frozen=True, slots=True)
class Corpus:
    """Both splits as sequences of at most ``max_length`` tokens, and what became of the records.

    ``template`` wrote some of them; None where all are texts or completions.
    """

    train: Sequences
    val: Sequences
    max_length: int
    notes: tuple[str, ...]
    template: Chosen | None


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
        return tokenize(
            examples,
            tokenizer,
            max_length=max_length,
            num_embeddings=config.vocab_size,
            where=where,
        )

    train = sequences(splits.train, f"{data.data} (training)")
    val = sequences(splits.val, f"{data.val_data or data.data} (validation)")
    told = (
        _told("training", splits.train, train, maker.template),
        _told("validation", splits.val, val, maker.template),
    )
    template = maker.template if maker.is_used else None
    notes = (*splits.notes, *told, *maker.unread.notes())
    return Corpus(train=train, val=val, max_length=max_length, notes=notes, template=template)


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
    train: Sequence[Record]
    val: Sequence[Record]
    notes: tuple[str, ...] = ()


def _open(data: DataOptions, recipe: LanguageRecipe) -> _Splits:
    """Records of both splits; where the data have one only, a share of it is held out."""
    train = read_records(data.data, data.train_split)
    _refuse_splits(data)
    val = _validation(data)
    found = hold_out(train, recipe.val_share, data.data) if val is None else _Splits(train, val)
    chosen = limited(found.train, data.limit_train), limited(found.val, data.limit_val)
    return _Splits(*chosen, found.notes)


def _refuse_splits(data: DataOptions) -> None:
    """A split that is named has to be read.

    Raises:
        OptionError: the data have none.
    """
    usual = DataOptions(data.data)
    for option, split, default, place in (
        ("--train-split", data.train_split, usual.train_split, data.data),
        ("--val-split", data.val_split, usual.val_split, data.val_data or data.data),
    ):
        if split != default and not has_splits(place):
            raise OptionError(f"{option} {split} is for data with splits: {place} has none")


def _validation(data: DataOptions) -> Sequence[Record] | None:
    """The records for validation; None of data that have no such split."""
    if data.val_data is not None:
        return read_records(data.val_data, data.val_split)
    if not has_splits(data.data):
        return None
    try:
        return read_records(data.data, data.val_split)
    except DataNotFound:
        if data.val_split != DataOptions(data.data).val_split:
            raise
        return None


def hold_out(records: Sequence[Record], share: float, where: str) -> _Splits:
    """A share for validation: evenly spaced records, or the end of the only record's text.

    Raises:
        OptionError: nothing would be held out, or nothing would be left.
    """
    if len(records) == 1 and is_plain(records[0]):
        text = text_of(records[0], "text")
        cut = _cut(text, share)
        if cut is not None:
            return _halves(records[0], text, cut)
    count = round(share * len(records))
    if not 0 < count < len(records):
        other = "another --set val_share" if len(records) > 1 else "more records than one"
        raise OptionError(
            f"of {len(records)} records val_share {share:g} holds {count} out for validation",
            where=where,
            hint=f"give --val-data, or {other}",
        )
    chosen = set(evenly_spaced(len(records), count))
    train = [record for at, record in enumerate(records) if at not in chosen]
    val = [record for at, record in enumerate(records) if at in chosen]
    return _Splits(train, val, (f"{len(val):,} records are held out for validation (val_share)",))


def _cut(text: str, share: float) -> int | None:
    """Where about the last share of a text begins, after a line end, or else after white space.

    Between half and one and a half of the share are held out; None where there is no such place.
    """
    wanted, slack = len(text) * (1 - share), len(text) * share / 2
    begin = max(int(wanted - slack), len(text) - len(text.lstrip()))
    end = min(ceil(wanted + slack), len(text.rstrip()))
    for pattern in _BREAKS:
        places = (found.end() for found in pattern.finditer(text, begin, end))
        nearest = min(places, key=lambda at: abs(at - wanted), default=None)
        if nearest is not None:
            return nearest
    return None


def _halves(record: Record, text: str, cut: int) -> _Splits:
    parts = (text[:cut], text[cut:])
    train, val = (Record({**record.fields, "text": part}, record.place) for part in parts)
    held = f"the last {len(parts[1]):,} of {len(text):,} characters"
    return _Splits([train], [val], (f"{held} are held out for validation (val_share)",))


def evaluation_records(
    data: str, split: str | None, limit: int | None, *, target: str
) -> Sequence[Record]:
    """Evenly spaced records of one split, ``validation`` by default, to evaluate ``target`` on.

    Raises:
        OptionError: the data are images, or a split is named and they have none.
    """
    if Path(data).exists() and not is_text_data(data):
        raise OptionError(
            f"a language model does not classify images, and {data} has no records",
            where=target,
            hint="--data takes records of text or questions: .jsonl, .json, .txt, .parquet",
        )
    records = read_records(data, split or DataOptions(data).val_split)
    if split is not None and not has_splits(data):
        raise OptionError(f"--split {split} is for data with splits: {data} has none")
    return limited(records, limit)


def limited(records: Sequence[Record], limit: int | None) -> Sequence[Record]:
    """At most so many, evenly spaced."""
    if limit is None or limit >= len(records):
        return records
    return [records[at] for at in evenly_spaced(len(records), limit)]


def _told(name: str, records: Sequence[Record], found: Sequences, template: str) -> str:
    """What became of the records of a split."""
    facts = [
        f"{len(records):,} records ({template} template) are {len(found):,} sequences of "
        f"{len(found.tokens):,} tokens, {int(found.is_target.sum()):,} of them targets"
    ]
    facts += shortfalls(found)
    return f"{name}: {'; '.join(facts)}"
