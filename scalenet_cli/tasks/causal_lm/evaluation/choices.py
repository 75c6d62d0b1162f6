"""Multiple choice from records {query, choices, gold}, scored as EleutherAI's lm-eval does."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from scalenet_cli.errors import ArchitectureMismatch, DataUnreadable
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of, whole_text
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_ids, encode_open
from scalenet_cli.tasks.causal_lm.evaluation.scoring import Progress, Span, score
from scalenet_cli.training.devices import Devices

FIELDS: Final = ("query", "choices", "gold")
DEFAULT_DELIMITER: Final = " "


@dataclass(frozen=True, slots=True)
class Question:
    """A query, its choices, and the position of the right one."""

    query: str
    choices: tuple[str, ...]
    gold: int
    place: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says to one question: log p of each choice in nats, and what it picks.

    ``pick`` has the highest sum; ``pick_norm`` the highest sum per character of the choice.
    """

    scores: tuple[float, ...]
    pick: int
    pick_norm: int


@final
@dataclass(frozen=True)
class Choices:
    """Counts over all questions and ranks. ``num_truncated`` questions lost their beginning."""

    num_questions: int
    num_truncated: int
    correct: int
    correct_norm: int
    answers: tuple[Answer, ...]

    @property
    def accuracy(self) -> float:
        """Share of questions whose most probable choice is right."""
        return self.correct / self.num_questions

    @property
    def accuracy_norm(self) -> float:
        """The same of log p divided by the number of characters of the choice."""
        return self.correct_norm / self.num_questions

    def standard_error(self, share: float) -> float | None:
        """Of a share of the questions, with the sample's deviation; one question has none."""
        if self.num_questions < 2:
            return None
        return math.sqrt(share * (1 - share) / (self.num_questions - 1))


def is_question(record: Record) -> bool:
    """Whether a record means to be a question: it has one of their fields.

    A text may have one of them by chance; it is a question where it has choices and gold.
    """
    if "text" in record.fields:
        return "choices" in record.fields and "gold" in record.fields
    return any(name in record.fields for name in FIELDS)


def read_question(record: Record) -> Question:
    """The question of a record {query, choices, gold}; other fields are left alone.

    Raises:
        DataUnreadable: a field is missing or cannot be: what was expected, and what is there.
    """
    query = text_of(record, "query")
    choices = record.fields.get("choices")
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise _wrong(record, "choices", "a list of texts, none of them empty")
    if len(choices) < 2:
        raise _wrong(record, "choices", f"2 choices or more, not {len(choices)}")
    gold = record.fields.get("gold")
    if type(gold) is not int or not 0 <= gold < len(choices):
        found = f", not {gold}" if type(gold) is int else ""
        raise _wrong(record, "gold", f"the right choice's position, 0 to {len(choices) - 1}{found}")
    texts = tuple(whole_text(choice, "a choice", record) for choice in choices)
    return Question(query, texts, gold, record.place)


def _wrong(record: Record, name: str, expected: str) -> DataUnreadable:
    fact = f"{name} has to be {expected}"
    if name not in record.fields:
        fact = f"the field {name} is missing: {expected}"
    hint = 'a question is {"query": "...", "choices": ["...", "..."], "gold": 0}'
    return DataUnreadable(fact, where=record.place, hint=hint)


def measure_choices(
    model: Any,
    tokenizer: Any,
    records: Sequence[Record],
    devices: Devices,
    *,
    context: int,
    batch_size: int,
    delimiter: str = DEFAULT_DELIMITER,
    progress: Progress | None = None,
) -> Choices:
    """Which choice the model takes for the continuation of each query.

    A choice is scored after ``query + delimiter``. Where both are longer than ``context``, the
    beginning of the query is left out.

    Raises:
        DataUnreadable: a record is no question, or a choice alone is longer than the context.
        ArchitectureMismatch: a token that the model's embedding has no row for.
        LossNotFinite: the model answers NaN or infinity.
    """
    questions = [read_question(record) for record in records]
    num_embeddings = len(model.get_input_embeddings().weight)
    spans, num_truncated = list[Span](), 0
    for question in questions:
        cut, is_truncated = _spans(tokenizer, question, context, delimiter)
        for span in cut:
            check_ids(tokenizer, span.tokens, num_embeddings, question.place)
        num_truncated += is_truncated
        spans += cut
    scores = iter(score(model, spans, devices, batch_size=batch_size, progress=progress))
    answers = [_answer(q, [next(scores) for _ in q.choices]) for q in questions]
    found = list(zip(questions, answers, strict=True))
    return Choices(
        num_questions=len(questions),
        num_truncated=num_truncated,
        correct=sum(answer.pick == question.gold for question, answer in found),
        correct_norm=sum(answer.pick_norm == question.gold for question, answer in found),
        answers=tuple(answers),
    )


def _spans(
    tokenizer: Any, question: Question, context: int, delimiter: str
) -> tuple[list[Span], bool]:
    """What is scored of one question, a span per choice, and whether any lost its beginning."""
    pairs = [split_pair(tokenizer, question.query, delimiter + c) for c in question.choices]
    cut = [_fit(before, after, context, question.place) for before, after in pairs]
    is_truncated = any(
        len(span.tokens) < len(before) + len(after)
        for span, (before, after) in zip(cut, pairs, strict=True)
    )
    return cut, is_truncated


def split_pair(tokenizer: Any, query: str, continuation: str) -> tuple[list[int], list[int]]:
    """Tokens of a query and of what follows it, split as lm-eval splits them.

    Both are encoded as one text, cut where the query alone ends; white space at the end of the
    query belongs to the continuation, because tokens begin with it. Unlike lm-eval, without an EOS
    that the tokenizer adds itself: it would stand between the two, for a token of the choice.

    Raises:
        ArchitectureMismatch: an empty query, and a tokenizer without BOS and EOS to put there.
    """
    kept = query.rstrip()
    continuation = query[len(kept) :] + continuation
    before = encode_open(tokenizer, kept) if kept else []
    if before:
        return before, encode_open(tokenizer, kept + continuation)[len(before) :]
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    if start is None:
        raise ArchitectureMismatch(
            "an empty query needs a token to begin with, and the tokenizer has no BOS or EOS"
        )
    ids = tokenizer.encode(continuation, add_special_tokens=False, verbose=False)
    return [start], ids[1:] if ids[:1] == [start] else ids


def _fit(before: list[int], after: list[int], context: int, place: str) -> Span:
    """The last tokens of both that the model can take; it is not shown the very last one."""
    if not after:
        raise DataUnreadable(
            "a choice adds no token to its query", where=place, hint="mend or remove the record"
        )
    if len(after) > context:
        raise DataUnreadable(
            f"a choice has {len(after)} tokens, but the context has {context}",
            where=place,
            hint="remove the record, or use a longer --context",
        )
    tokens = (before + after)[-(context + 1) :]
    return Span(tokens, range(len(tokens) - len(after), len(tokens)), place)


def _answer(question: Question, scores: list[float]) -> Answer:
    lengths = [len(choice) for choice in question.choices]
    normed = [total / length for total, length in zip(scores, lengths, strict=True)]
    # Of equal scores the first one, as numpy's argmax does.
    return Answer(tuple(scores), scores.index(max(scores)), normed.index(max(normed)))
