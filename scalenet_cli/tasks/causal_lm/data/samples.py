"""Rows of tokens as a data set, in batches, and in the order that wastes little on padding."""

from collections.abc import Sequence
from typing import NamedTuple, final

import numpy as np
import torch
from torch.utils.data import Dataset

from scalenet_cli.surgery.values import derive_seed
from scalenet_cli.tasks.causal_lm.data.sequences import Sequences, pack
from scalenet_cli.training.order import Place, epoch_order

# What F.cross_entropy leaves out.
IGNORED = -100
# So many batches are sorted by length at a time, as transformers' LengthGroupedSampler does.
_SORTED_BATCHES = 50

# Shape legend: B rows, N tokens.


class TokenBatch(NamedTuple):
    """Rows of tokens, padded on the right to the longest.

    Shapes:
        tokens_BN, labels_BN (IGNORED where nothing is to be learned). positions_BN is there for
        packed rows: it begins anew with every sequence, which is how transformers keeps them apart.
    """

    tokens_BN: torch.Tensor
    labels_BN: torch.Tensor
    positions_BN: torch.Tensor | None


Row = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]


@final
class TokenRows(Dataset[Row]):
    """Rows of one or, packed, several sequences.

    Training addresses a row by epoch and position, evaluation by position alone.
    """

    def __init__(self, sequences: Sequences, *, room: int | None, longest_first: bool) -> None:
        """``room``, the tokens of a row, packs; without it every sequence is a row."""
        self._sequences = sequences
        self._is_packed = room is not None
        lengths = sequences.lengths
        if room is None:
            self._rows = [[at] for at in range(len(sequences))]
        else:
            self._rows = pack(lengths.tolist(), room)
        if longest_first:
            self._rows.sort(key=lambda row: (-int(lengths[row].sum()), row))
        self.lengths = np.array([int(lengths[row].sum()) for row in self._rows])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Place | int) -> Row:
        row = self._rows[place if isinstance(place, int) else place[1]]
        bounds = self._sequences.bounds
        spans = [slice(int(bounds[at]), int(bounds[at + 1])) for at in row]
        tokens = np.concatenate([self._sequences.tokens[span] for span in spans])
        learned = np.concatenate([self._sequences.is_target[span] for span in spans])
        positions = None
        if self._is_packed:
            positions = torch.cat([torch.arange(span.stop - span.start) for span in spans])
        ids = torch.from_numpy(tokens.astype(np.int64))
        return ids, torch.where(torch.from_numpy(learned), ids, IGNORED), positions


def collate_rows(rows: Sequence[Row]) -> TokenBatch:
    """Pads on the right: causal attention never looks there. Of no rows, a batch of none."""
    if not rows:
        empty = torch.empty((0, 0), dtype=torch.long)
        return TokenBatch(empty, empty, None)
    packed = [positions for _, _, positions in rows if positions is not None]
    return TokenBatch(
        _padded([tokens for tokens, _, _ in rows], 0),
        _padded([labels for _, labels, _ in rows], IGNORED),
        _padded(packed, 0) if packed else None,
    )


def _padded(rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value)


def grouped_order(
    lengths: np.ndarray[tuple[int], np.dtype[np.int64]], batch_size: int, seed: int, epoch: int
) -> torch.Tensor:
    """A permutation in which the rows of a batch have like lengths.

    Rows are shuffled, sorted by length within each run of 50 batches, and the batches are shuffled.
    What does not fill a batch is at the end, and another part of the data in every epoch.
    """
    order = epoch_order(len(lengths), seed, epoch)
    whole = len(order) // batch_size * batch_size
    runs = torch.split(order[:whole], batch_size * _SORTED_BATCHES)
    by_length = torch.from_numpy(lengths)
    ordered = [run[by_length[run].argsort(descending=True, stable=True)] for run in runs]
    batches = torch.cat([order[:0], *ordered]).view(-1, batch_size)
    generator = torch.Generator().manual_seed(derive_seed(seed, f"batches of epoch {epoch}"))
    shuffled = batches[torch.randperm(len(batches), generator=generator)]
    return torch.cat([shuffled.flatten(), order[whole:]])
