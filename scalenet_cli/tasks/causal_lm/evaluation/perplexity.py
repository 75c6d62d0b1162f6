"""Perplexity of documents, each by itself, in windows that overlap."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_ids
from scalenet_cli.tasks.causal_lm.evaluation.scoring import Loss, Progress, Span, score
from scalenet_cli.training.devices import Devices

DEFAULT_CONTEXT: Final = 1024
# Texts that are tokenised in one call.
_TEXTS: Final = 256


@dataclass(frozen=True, slots=True)
class Windows:
    """A window has ``context`` tokens, and the next one begins ``stride`` tokens later."""

    context: int
    stride: int


@final
@dataclass(frozen=True)
class Perplexity(Loss):
    """Sums over all documents and ranks.

    ``num_empty`` documents have no target: no text, or a single token. ``num_windowed`` are longer
    than one window.
    """

    num_documents: int
    num_empty: int
    num_windowed: int
    num_tokens: int
    num_bytes: int

    @property
    def bits_per_byte(self) -> float:
        """-log2 p of all targets over all bytes of text: comparable between tokenizers."""
        return self.loss_sum / math.log(2) / self.num_bytes


def choose_windows(num_positions: int, context: int | None, stride: int | None) -> Windows:
    """1024 tokens, or what the model is made for where that is less, in steps of half a window.

    Raises:
        OptionError: a context that the model is not made for, or steps that would leave targets
            out or without context.
    """
    if context is None:
        context = min(num_positions, DEFAULT_CONTEXT)
    if not 2 <= context <= num_positions:
        raise OptionError(
            f"--context is {context}, but the model is made for 2 to {num_positions} tokens"
        )
    if stride is None:
        stride = max(1, context // 2)
    if not 1 <= stride < context:
        raise OptionError(
            f"--stride is {stride}, and has to be from 1 to {context - 1}: one less than the "
            f"context, which is {context}"
        )
    return Windows(context, stride)


def split_windows(size: int, windows: Windows) -> Iterator[tuple[int, int, int]]:
    """Begin, end and first target of each window over a document of ``size`` tokens.

    Every token but the first is a target of one window: the earliest that has it.

    >>> list(split_windows(10, Windows(context=6, stride=3)))
    [(0, 6, 1), (3, 9, 6), (6, 10, 9)]
    """
    seen, begin = 1, 0
    while seen < size:
        end = min(begin + windows.context, size)
        yield begin, end, seen
        seen, begin = end, begin + windows.stride


def measure_perplexity(
    model: Any,
    tokenizer: Any,
    records: Sequence[Record],
    devices: Devices,
    *,
    windows: Windows,
    batch_size: int,
    progress: Progress | None = None,
) -> Perplexity:
    """Perplexity of the records' ``text``, with the special tokens that the tokenizer adds itself.

    Raises:
        DataUnreadable: a record has no text, or none has a target.
        ArchitectureMismatch: a token that the model's embedding has no row for.
        LossNotFinite: the model answers NaN or infinity.
    """
    texts = [text_of(record, "text") for record in records]
    num_embeddings = len(model.get_input_embeddings().weight)
    spans, lengths, num_bytes, num_windowed = list[Span](), list[int](), 0, 0
    for record, text, ids in zip(records, texts, encode(tokenizer, texts), strict=True):
        check_ids(tokenizer, ids, num_embeddings, record.place)
        own = _spans(ids, windows, record.place)
        spans += own
        lengths.append(len(ids))
        num_windowed += len(own) > 1
        num_bytes += len(text.encode()) if own else 0
    if not spans:
        fact = f"none of {len(records)} documents has two tokens or more"
        raise DataUnreadable(fact, where=records[0].place)
    scores = score(model, spans, devices, batch_size=batch_size, progress=progress)
    return Perplexity(
        num_documents=len(records),
        num_empty=sum(length < 2 for length in lengths),
        num_windowed=num_windowed,
        num_tokens=sum(lengths),
        num_targets=sum(len(span.targets) for span in spans),
        num_bytes=num_bytes,
        loss_sum=-math.fsum(scores),
    )


def _spans(ids: list[int], windows: Windows, place: str) -> list[Span]:
    return [
        Span(ids[begin:end], range(first - begin, end - begin), place)
        for begin, end, first in split_windows(len(ids), windows)
    ]


def encode(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[int]]:
    """Token ids of each text, without a warning where they are more than the model's positions."""
    for at in range(0, len(texts), _TEXTS):
        yield from tokenizer(list(texts[at : at + _TEXTS]), verbose=False)["input_ids"]
