"""The data of ``scalenet eval`` on a language model: records of one kind each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.tasks.causal_lm.data.corpus import evaluation_records, longest
from scalenet_cli.tasks.causal_lm.data.datasets_library import HUB
from scalenet_cli.tasks.causal_lm.data.examples import has_answer
from scalenet_cli.tasks.causal_lm.data.fields import UnreadFields
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of
from scalenet_cli.tasks.causal_lm.evaluation.answers import Prepared, prepare_answers
from scalenet_cli.tasks.causal_lm.evaluation.choices import FIELDS, is_question, read_question
from scalenet_cli.tasks.causal_lm.load_model import OpenedLanguageModel

if TYPE_CHECKING:
    from scalenet_cli.tasks.causal_lm.evaluation.options import LanguageEvaluation

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
    """Records of one kind from one place; answers become tokens as soon as the model is known.

    ``notes`` name the fields that are not read.
    """

    place: str
    records: Sequence[Record]
    kind: Kind
    answers: Prepared | None = None
    notes: tuple[str, ...] = ()


def read_data(place: str, work: "LanguageEvaluation") -> Data:
    """All records of a place, each of which has to be of the first one's kind.

    Raises:
        DataError: it cannot be read, or a record is not what it should be.
        OptionError: images, or a split of data without splits.
    """
    how = work.how
    records = evaluation_records(place, how.split, how.limit, target=work.target)
    kind, unread = _kind(records[0]), UnreadFields()
    for record in records:
        if kind == "questions":
            read_question(record)
            unread.add(record, FIELDS)
        elif _kind(record) != kind:
            raise DataUnreadable(
                f"{_ONE[_kind(record)]} among {kind}",
                where=record.place,
                hint="one kind of records per --data",
            )
        elif kind == "texts":
            text_of(record, "text")
            unread.add(record, {"text"})
    shown = f"{place} {how.split or 'validation'}" if place.startswith(HUB) else place
    return Data(shown, records, kind, notes=unread.notes())


def _kind(record: Record) -> Kind:
    if is_question(record):
        return "questions"
    return "answers" if has_answer(record) else "texts"


def require_metrics(work: "LanguageEvaluation", data: Sequence[Data]) -> None:
    """A threshold on what is not measured would never be missed.

    Raises:
        OptionError: there is one.
    """
    if work.how.tasks:
        return
    given = {name for one in data for name in _METRICS[one.kind]}
    lacking = sorted(work.wanted - given)
    if lacking:
        raise OptionError(
            f"--fail-under names {lacking[0]}, but these data give {', '.join(sorted(given))}"
        )


def prepared(data: Data, opened: OpenedLanguageModel, work: "LanguageEvaluation") -> Data:
    """Answers as tokens; other kinds as they are.

    Raises:
        DataError, OptionError, ArchitectureMismatch: see prepare_answers.
    """
    if data.kind != "answers":
        return data
    how = work.how
    answers = prepare_answers(
        data.records,
        opened.tokenizer,
        template=(opened.template or "auto") if how.template == "auto" else how.template,
        max_length=longest(how.context, opened.num_positions, "--context"),
        num_embeddings=opened.num_embeddings,
        place=data.place,
    )
    return replace(data, answers=answers, notes=answers.notes)
