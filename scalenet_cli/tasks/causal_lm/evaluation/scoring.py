"""Log-probabilities of tokens: what perplexity and multiple choice are made of.

Shape legend: B sequences, N tokens, C channels, T targets of a batch, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional as F

from scalenet_cli.errors import LossNotFinite
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.order import rank_share

# Batches done and batches in total, of this process.
Progress = Callable[[int, int], None]
# Logits at a time: 64 MiB in float32, and as much again for their log-softmax.
_LOGITS: Final = 2**24


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens, and the positions of those whose probability is asked for, none of them the first.

    ``place`` is for messages. The model sees all tokens but the last.
    """

    tokens: Sequence[int]
    targets: Sequence[int]
    place: str


@dataclass(frozen=True)
class Loss:
    """The sum of -log p over all targets, in nats, and how many there are."""

    num_targets: int
    loss_sum: float

    @property
    def loss(self) -> float:
        """Mean of -log p over all targets, in nats."""
        return self.loss_sum / self.num_targets

    @property
    def perplexity(self) -> float:
        """Infinity where a float64 cannot hold it."""
        return math.exp(self.loss) if self.loss < 709 else math.inf


def score(
    model: Any,
    spans: Sequence[Span],
    devices: Devices,
    *,
    batch_size: int,
    progress: Progress | None = None,
) -> list[float]:
    """The log-probability of each span's targets given what is before them, in nats.

    ``model`` is a transformers decoder. Longer spans come first, so that a batch has spans of about
    one length and the memory that it needs shows at once. Every rank scores its share, and all
    return all scores; a sum is in float64 over log-softmax in float32.

    Raises:
        LossNotFinite: an answer is NaN or infinite.
    """
    order = sorted(range(len(spans)), key=lambda at: (-len(spans[at].tokens), at))
    batches = rank_share(len(spans), devices.num_ranks, devices.rank, batch_size)
    scores = torch.zeros(len(spans), dtype=torch.float64)
    for done, batch in enumerate(batches, start=1):
        picked = [order[at] for at in batch]
        if picked:
            scores[picked] = _score_batch(model, [spans[at] for at in picked], devices.device)
        if progress is not None:
            progress(done, len(batches))
    shared = devices.sum(scores.to(devices.device) if devices.device.type == "cuda" else scores)
    found: list[float] = shared.cpu().tolist()
    _require_finite(shared.cpu(), spans)
    return found


@torch.inference_mode()
def _score_batch(model: Any, spans: Sequence[Span], device: torch.device) -> torch.Tensor:
    """The scores of a batch (B,) on the CPU. Padding is on the right, where causal models look not.

    So no mask is needed, and the fastest attention is used.
    """
    inputs_BN = torch.zeros(len(spans), max(len(s.tokens) for s in spans) - 1, dtype=torch.long)
    for row, span in enumerate(spans):
        inputs_BN[row, : len(span.tokens) - 1] = torch.tensor(span.tokens[:-1])
    rows_T = torch.tensor([row for row, span in enumerate(spans) for _ in span.targets])
    columns_T = torch.tensor([at - 1 for span in spans for at in span.targets])
    targets_T = torch.tensor([span.tokens[at] for span in spans for at in span.targets])
    hidden_BNC = model.base_model(input_ids=inputs_BN.to(device), use_cache=False).last_hidden_state
    hidden_TC = hidden_BNC[rows_T.to(device), columns_T.to(device)]
    scores_T = _log_probabilities(model, hidden_TC, targets_T.to(device))
    return torch.zeros(len(spans), dtype=torch.float64).index_add_(0, rows_T, scores_T)


def _log_probabilities(
    model: Any, hidden_TC: torch.Tensor, targets_T: torch.Tensor
) -> torch.Tensor:
    """Log p of each target (T,), in float64 on the CPU; never all logits (T, V) at once."""
    head = model.get_output_embeddings()
    # Gemma 2 bends its logits after the head.
    cap = model.config.to_dict().get("final_logit_softcapping")
    size = max(1, _LOGITS // head.weight.shape[0])
    parts = []
    for hidden, targets in zip(
        torch.split(hidden_TC, size), torch.split(targets_T, size), strict=True
    ):
        logits_TV = head(hidden)
        if cap is not None:
            logits_TV = torch.tanh(logits_TV / cap) * cap
        parts.append(-F.cross_entropy(logits_TV.float(), targets, reduction="none").cpu().double())
    return torch.cat(parts)


def _require_finite(scores: torch.Tensor, spans: Sequence[Span]) -> None:
    wrong = (~scores.isfinite()).nonzero().flatten().tolist()
    if wrong:
        raise LossNotFinite(
            f"the model answers NaN or infinity to {len(wrong)} of {len(spans)} sequences",
            where=spans[wrong[0]].place,
            hint="use --precision fp32, or look for NaN in the weights",
        )
