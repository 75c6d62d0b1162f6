"""Perplexity of the answers of records: what validation measures while a model is trained."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from scalenet_cli.tasks.causal_lm.data.examples import ExampleMaker
from scalenet_cli.tasks.causal_lm.data.record import Record
from scalenet_cli.tasks.causal_lm.data.sequences import Sequences, tokenize
from scalenet_cli.tasks.causal_lm.data.templates import Chosen, Template
from scalenet_cli.tasks.causal_lm.evaluation.scoring import Loss, Progress, Span, score
from scalenet_cli.training.devices import Devices


@final
@dataclass(frozen=True)
class Prepared:
    """Records as sequences of at most ``max_length`` tokens, written by a template.

    ``notes`` name the fields that are in no sequence.
    """

    template: Chosen
    sequences: Sequences
    max_length: int
    notes: tuple[str, ...]


def prepare_answers(
    records: Sequence[Record],
    tokenizer: Any,
    template: Template,
    max_length: int,
    num_embeddings: int,
    place: str,
) -> Prepared:
    """Tokens of records, of which the answers are targets, as while training.

    Raises:
        DataUnreadable: a record has not the fields of one, or none has an answer.
        ArchitectureMismatch: a token that the model's embedding has no row for.
        OptionError: a chat template is asked for, and there is none.
    """
    maker = ExampleMaker(tokenizer, template, train_on_prompt=False)
    examples = (maker.make(record) for record in records)
    sequences = tokenize(
        examples, tokenizer, max_length=max_length, num_embeddings=num_embeddings, where=place
    )
    return Prepared(maker.template, sequences, max_length, maker.unread.notes())


def measure_answers(
    model: Any,
    sequences: Sequences,
    devices: Devices,
    *,
    batch_size: int,
    place: str,
    progress: Progress | None = None,
) -> Loss:
    """How well a model predicts the targets of sequences, each by itself.

    Raises:
        LossNotFinite: the model answers NaN or infinity.
    """
    spans = []
    for begin, end in zip(sequences.bounds, sequences.bounds[1:], strict=False):
        targets = np.flatnonzero(sequences.is_target[begin:end])
        spans.append(Span(sequences.tokens[begin:end].tolist(), tuple(targets.tolist()), place))
    scores = score(model, spans, devices, batch_size=batch_size, progress=progress)
    return Loss(sum(len(span.targets) for span in spans), -math.fsum(scores))
