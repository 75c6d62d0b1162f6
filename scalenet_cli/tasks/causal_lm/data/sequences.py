"""Examples as tokens: cut to a length, and packed several to a row where that is wanted."""

import hashlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.tasks.causal_lm.data.examples import Example, Span
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_ids

# Examples that the tokenizer gets at a time, and their characters, unless one alone has more.
_AT_ONCE: Final = 1000
_CHARACTERS: Final = 2**22


@final
@dataclass(frozen=True, slots=True)
class Sequences:
    """Token sequences end to end.

    Shapes: tokens and is_target (T,), bounds (N + 1,): sequence n is from bounds[n] to the next.
    ``num_cut`` examples lost their end, ``num_dropped`` had nothing left to learn; ``num_changed``
    answers are not learned, because the template writes them otherwise once a turn follows.
    """

    tokens: NDArray[np.int32]
    is_target: NDArray[np.bool_]
    bounds: NDArray[np.int64]
    num_cut: int
    num_dropped: int
    num_changed: int

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of every sequence: (N,)."""
        return np.diff(self.bounds)

    @property
    def digest(self) -> str:
        """Sha256 of all tokens, targets and bounds."""
        digest = hashlib.sha256()
        for array in (self.tokens, self.is_target, self.bounds):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def tokenize(
    examples: Iterable[Example | None],
    tokenizer: Any,
    max_length: int,
    num_embeddings: int,
    where: str,
) -> Sequences:
    """Tokens of all examples; what is longer than ``max_length`` is cut.

    Plain text is cut into pieces, each a sequence of its own; anything else loses its end. What has
    no target left is dropped.

    Raises:
        ArchitectureMismatch: a token that the embedding has no row for.
        DataUnreadable: nothing is left.
    """
    tokens: list[NDArray[np.int32]] = []
    targets: list[NDArray[np.bool_]] = []
    num_cut = num_dropped = num_changed = num_otherwise = 0
    for found in examples_in_tokens(examples, tokenizer):
        if found is None:
            num_dropped += 1
            continue
        ids, learned, example = found
        check_ids(tokenizer, [int(ids.max())], num_embeddings, example.place)
        num_cut += not example.is_plain and len(ids) > max_length
        num_changed += example.num_changed
        begins = range(0, len(ids), max_length) if example.is_plain else (0,)
        parts = [slice(begin, begin + max_length) for begin in begins]
        pieces = [(ids[part], own) for part in parts if (own := _learned(learned[part])).any()]
        tokens += [piece for piece, _ in pieces]
        targets += [own for _, own in pieces]
        num_dropped += not pieces
        num_otherwise += bool(example.num_changed) and not example.targets
    if not tokens:
        raise _nothing(num_dropped, num_otherwise, max_length, where)
    bounds = np.cumsum([0, *map(len, tokens)], dtype=np.int64)
    joined = np.concatenate(tokens), np.concatenate(targets)
    return Sequences(*joined, bounds, num_cut, num_dropped, num_changed)


def _learned(targets: NDArray[np.bool_]) -> NDArray[np.bool_]:
    own = targets.copy()
    own[0] = False  # nothing is before it that could tell it
    return own


def shortfalls(found: Sequences) -> list[str]:
    """What is not learned of the examples, and why."""
    facts = []
    if found.num_cut:
        facts.append(f"{found.num_cut:,} were cut to max_length")
    if found.num_changed:
        facts.append(
            f"{found.num_changed:,} answers are not learned, because the template writes them "
            "otherwise once a turn follows"
        )
    if found.num_dropped:
        facts.append(f"{found.num_dropped:,} have nothing to learn and were left out")
    return facts


def _nothing(num_dropped: int, num_otherwise: int, max_length: int, where: str) -> DataUnreadable:
    facts = []
    if num_dropped > num_otherwise:
        facts.append(
            f"{num_dropped - num_otherwise} have no answer, or it begins after max_length, "
            f"{max_length} tokens"
        )
    if num_otherwise:
        facts.append(f"of {num_otherwise} the template writes every answer otherwise")
    return DataUnreadable(f"no record has anything to learn: {'; '.join(facts)}", where=where)


InTokens = tuple[NDArray[np.int32], NDArray[np.bool_], Example]


def examples_in_tokens(
    examples: Iterable[Example | None], tokenizer: Any
) -> Iterator[InTokens | None]:
    """Ids, which of them are targets, and the example; None stays None.

    A token is a target if any character of it is. What no template has closed ends with the
    tokenizer's EOS, which is a target, whether or not the tokenizer adds one itself.
    """
    end = tokenizer.eos_token_id
    for group in _groups(examples):
        there = [example for example in group if example is not None]
        runs = groupby(there, key=lambda example: example.closed)
        found = (one for _, run in runs for one in _encode(list(run), tokenizer))
        for example in group:
            if example is None:
                yield None
                continue
            ids, offsets = next(found)
            learned = _targets(offsets, example.targets)
            if not example.closed and end is not None:
                if ids[-1:].tolist() != [end]:
                    ids, learned = np.append(ids, end), np.append(learned, True)
                learned[-1] = True
            yield (ids.astype(np.int32), learned, example) if len(ids) else None


def _groups(examples: Iterable[Example | None]) -> Iterator[list[Example | None]]:
    """Examples in their order, as many as the tokenizer gets at a time."""
    group: list[Example | None] = []
    room = _CHARACTERS
    for example in examples:
        size = 0 if example is None else len(example.text)
        if group and (len(group) == _AT_ONCE or size > room):
            yield group
            group, room = [], _CHARACTERS
        group.append(example)
        room -= size
    if group:
        yield group


def _encode(
    examples: Sequence[Example], tokenizer: Any
) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int64]]]:
    """Ids (T,) and offsets (T, 2) in characters; special tokens have empty ones.

    The examples are all closed, or none is.
    """
    found = tokenizer(
        [example.text for example in examples],
        add_special_tokens=not examples[0].closed,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    for ids, offsets in zip(found["input_ids"], found["offset_mapping"], strict=True):
        yield np.array(ids, dtype=np.int32), np.array(offsets, dtype=np.int64).reshape(-1, 2)


def _targets(offsets_T2: NDArray[np.int64], spans: Sequence[Span]) -> NDArray[np.bool_]:
    begin_T, end_T = offsets_T2[:, 0], offsets_T2[:, 1]
    learned = np.zeros(len(offsets_T2), dtype=np.bool_)
    for begin, end in spans:
        learned |= (begin_T < end) & (end_T > begin) & (end_T > begin_T)
    return learned


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Which sequences share a row of ``room`` tokens: longest first, each where it fits best.

    >>> pack([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    rows: list[list[int]] = []
    left: list[tuple[int, int]] = []  # room and number of every row, the fullest first
    for index in sorted(range(len(lengths)), key=lambda at: (-lengths[at], at)):
        length = lengths[index]
        at = bisect_left(left, (length, -1))
        if at == len(left):
            rows.append([index])
            insort(left, (room - length, len(rows) - 1))
            continue
        room_left, row = left.pop(at)
        rows[row].append(index)
        insort(left, (room_left - length, row))
    return rows
