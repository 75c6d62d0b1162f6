"""Linear CKA between the outputs of all blocks of two models."""

# Shape legend: R rows (samples, or sampled tokens), C channels.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import torch

# A feature whose spread is so small beside its size is constant but for rounding.
_CONSTANT: Final = 1e-7


@final
@dataclass(frozen=True, slots=True)
class Similarities:
    """CKA of every block of one model (row) with every block of another (column).

    ``linear`` is Kornblith's, ``unbiased`` the same of unbiased estimates of HSIC. NaN where a
    feature does not vary, and in ``unbiased`` below 4 rows.
    """

    linear: tuple[tuple[float, ...], ...]
    unbiased: tuple[tuple[float, ...], ...]


def compare_features(one: Sequence[torch.Tensor], other: Sequence[torch.Tensor]) -> Similarities:
    """Linear CKA of all pairs, in float64, from the features of all samples at once.

    Features are kept, not products of pairs: R rows of C channels per block are small for the 256
    to 2,048 samples that a diagnosis takes, while cross-covariances of 24 x 12 blocks of 768
    channels would be 1.3 GB. So nothing is estimated from minibatches, and neither order nor size
    of batches changes anything. Beside the features, one R x R or R x C matrix per block is kept,
    the smaller of the two for the widest block: at most ``8 * R * min(R, C)`` bytes for each.

    ``linear`` uses the biased HSIC: with few rows beside C it is too high (two independent features
    of R <= C rows come near 1). ``unbiased`` has no such bias, is near 0 for independent features,
    and may be below 0.

    Shapes:
        every feature is (R, C), with its own C; all have the same R.
    Source:
        Kornblith et al. (arXiv:1905.00414); unbiased HSIC of Song et al. (JMLR 13, 2012), as used
        for CKA by Nguyen et al. (arXiv:2010.15327).
    """
    widest = max(feature.shape[1] for feature in (*one, *other))
    by_rows = len(one[0]) <= widest
    rows = [_Kernel.of(feature, by_rows=by_rows) for feature in one]
    columns = rows if other is one else [_Kernel.of(feature, by_rows=by_rows) for feature in other]
    own = [row.inner(row) for row in rows]
    others = own if other is one else [column.inner(column) for column in columns]
    linear, unbiased = [], []
    for row, mine in zip(rows, own, strict=True):
        pairs = [
            (row.inner(column), mine, theirs)
            for column, theirs in zip(columns, others, strict=True)
        ]
        linear.append(tuple(_ratio(a[0], b[0], c[0]) for a, b, c in pairs))
        unbiased.append(tuple(_ratio(a[1], b[1], c[1]) for a, b, c in pairs))
    return Similarities(tuple(linear), tuple(unbiased))


@final
@dataclass(frozen=True, slots=True)
class _Kernel:
    """A centred feature X, or its Gram matrix X X', and the diagonal of that matrix: (R,)."""

    matrix: torch.Tensor
    diagonal_R: torch.Tensor
    by_rows: bool

    @classmethod
    def of(cls, feature_RC: torch.Tensor, *, by_rows: bool) -> "_Kernel":
        x_RC = feature_RC.double()
        size = float(x_RC.norm())
        x_RC = x_RC - x_RC.mean(dim=0)
        if float(x_RC.norm()) <= _CONSTANT * size:
            x_RC = torch.zeros_like(x_RC)
        matrix = x_RC @ x_RC.t() if by_rows else x_RC
        return cls(matrix, x_RC.square().sum(dim=1), by_rows)

    def inner(self, other: "_Kernel") -> tuple[float, float]:
        """HSIC of two features, biased and unbiased, each up to a factor that is common to all.

        Rows of a centred Gram matrix add up to 0, so without its diagonal they add up to minus
        that: all sums of the unbiased estimate come from the diagonals.
        """
        if self.by_rows:
            biased = float((self.matrix * other.matrix).sum())
        else:
            biased = float((other.matrix.t() @ self.matrix).square().sum())
        num_rows = len(self.diagonal_R)
        if num_rows < 4:
            return biased, float("nan")
        traces = float(self.diagonal_R.sum() * other.diagonal_R.sum())
        both = float(self.diagonal_R @ other.diagonal_R)
        unbiased = biased - both + traces / ((num_rows - 1) * (num_rows - 2))
        return biased, unbiased - 2 * both / (num_rows - 2)


def _ratio(pair: float, one: float, other: float) -> float:
    product = one * other
    return float(pair / product**0.5) if one > 0 and other > 0 else float("nan")
