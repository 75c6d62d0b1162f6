"""One pass over all samples: score, histograms, features for CKA, and ratios of adapters."""

# Shape legend: B samples, N tokens, C channels, P sampled tokens of a sample.

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import torch
from torch import nn

from scalenet_cli.errors import LossNotFinite, OptionError
from scalenet_cli.measure.ablation import adapted_linears
from scalenet_cli.measure.activations import Histogram, HistogramSum
from scalenet_cli.measure.model_outputs import (
    ExecutedBlock,
    Samples,
    Score,
    answer,
    exact,
    listening,
)
from scalenet_cli.surgery.instance import AdjustedLinear
from scalenet_cli.surgery.values import derive_seed

_TINY: Final = 1e-30


@final
@dataclass(frozen=True, slots=True)
class AdapterRatio:
    """How much an adapter adds to one tied Linear.

    ``ratio`` is the mean over samples of the l2 norm of the adapter's output divided by that of the
    core's, bias included and gate left out, over all tokens of the sample. ``gate`` is the root
    mean square of the gate; None where there is none. An adapter beside a whole module has no such
    number: what the module puts out has a norm of its own.
    """

    block: ExecutedBlock
    linear: str
    ratio: float
    gate: float | None


@final
@dataclass(frozen=True, slots=True)
class Observation:
    """``histograms`` are of the chosen depths, ``features`` (rows, C) of all blocks, in float32."""

    score: Score
    histograms: tuple[Histogram, ...]
    features: tuple[torch.Tensor, ...]
    ratios: tuple[AdapterRatio, ...]


@torch.no_grad()
def observe(
    model: nn.Module,
    blocks: Sequence[ExecutedBlock],
    batches: Sequence[Samples],
    device: torch.device,
    *,
    depths: Sequence[int],
    tokens: int | None,
    seed: int,
    tick: Callable[[int, int], None] | None = None,
) -> Observation:
    """Runs every sample once; outputs are reduced as they appear, and none is kept whole.

    Without ``tokens`` the feature of a sample is the mean over its tokens, with them so many of its
    tokens, which seed and sample choose.

    Raises:
        OptionError: a sample has fewer tokens.
        LossNotFinite: a block puts out NaN or infinity.
    """
    watch = _Watch(blocks, depths, tokens, seed)
    adapted = [module for *_, module in watch.linears]
    total = Score()
    for done, batch in enumerate(batches, start=1):
        watch.samples = batch.to(device)
        with (
            listening([block.module for block in blocks], watch.see_block),
            listening(adapted, watch.see_linear),
        ):
            total += answer(model, watch.samples)[1]
        if tick is not None:
            tick(done, len(batches))
    return watch.result(total, sum(map(len, batches)))


@final
class _Watch:
    """Sums over batches; ``samples`` is the batch that is running."""

    samples: Samples

    def __init__(
        self, blocks: Sequence[ExecutedBlock], depths: Sequence[int], tokens: int | None, seed: int
    ) -> None:
        self._blocks, self._tokens, self._seed = blocks, tokens, seed
        self._histograms = {depth: HistogramSum() for depth in depths}
        self._features: list[list[torch.Tensor]] = [[] for _ in blocks]
        self.linears = [
            (block, path, module)
            for block in blocks
            for path, module in adapted_linears(block.module)
        ]
        self._ratios = [0.0] * len(self.linears)

    def see_block(self, order: int, _: torch.Tensor, y: torch.Tensor) -> None:
        """Adds the output of one block.

        Raises:
            LossNotFinite: it holds NaN or infinity.
        """
        if not bool(y.isfinite().all()):
            raise LossNotFinite(
                "a block puts out NaN or infinity, so there is nothing to diagnose",
                where=self._blocks[order].path,
                hint="the weights themselves are not finite, or overflow",
            )
        y_BNC = y.flatten(1, -2)
        if order in self._histograms:
            self._histograms[order].add(_unpadded(y_BNC, self.samples))
        if self._tokens is None:
            chosen = _mean(y_BNC, self.samples)
        else:
            chosen = _sampled(y_BNC, self.samples, self._tokens, self._seed)
        self._features[order].append(chosen.float().cpu())

    def see_linear(self, order: int, x: torch.Tensor, _: torch.Tensor) -> None:
        """Adds the ratio of one adapted Linear."""
        self._ratios[order] += _ratio_sum(self.linears[order][2], x, self.samples)

    def result(self, score: Score, num_samples: int) -> Observation:
        """Everything that was seen."""
        return Observation(
            score,
            tuple(one.result() for one in self._histograms.values()),
            tuple(torch.cat(parts) for parts in self._features),
            tuple(
                AdapterRatio(block, path, ratio / num_samples, _gate(module))
                for (block, path, module), ratio in zip(self.linears, self._ratios, strict=True)
            ),
        )


def _is_token(x_BNC: torch.Tensor, samples: Samples) -> torch.Tensor | None:
    """Which tokens are no padding: (B, N); None where all are."""
    if samples.lengths is None:
        return None
    return torch.arange(x_BNC.shape[1], device=x_BNC.device) < samples.lengths[:, None]


def _unpadded(x_BNC: torch.Tensor, samples: Samples) -> torch.Tensor:
    mask_BN = _is_token(x_BNC, samples)
    return x_BNC if mask_BN is None else x_BNC[mask_BN]


def _mean(x_BNC: torch.Tensor, samples: Samples) -> torch.Tensor:
    mask_BN = _is_token(x_BNC, samples)
    if mask_BN is None:
        return exact(x_BNC).mean(dim=1)
    weights_BN = exact(mask_BN)
    sums_BC = (exact(x_BNC) * weights_BN[..., None]).sum(dim=1)
    return sums_BC / weights_BN.sum(dim=1, keepdim=True)


def _sampled(x_BNC: torch.Tensor, samples: Samples, count: int, seed: int) -> torch.Tensor:
    """So many tokens of every sample: one of each of ``count`` equal runs of its tokens.

    A place is a share of the sample's length, so that blocks of another resolution, and other
    models, are asked for the same part of the image.

    Raises:
        OptionError: a sample has fewer tokens.
    """
    size = x_BNC.shape[1]
    lengths = [size] * len(samples) if samples.lengths is None else samples.lengths.tolist()
    if min(lengths) < count:
        raise OptionError(
            f"--cka-tokens is {count}, but a sample has only {min(lengths)} tokens at a block",
            hint=f"--cka-tokens {min(lengths)} or less; without it tokens are averaged",
        )
    rows = []
    for order, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(derive_seed(seed, f"{samples.first + order}"))
        places_P = (torch.arange(count) + torch.rand(count, generator=generator)) / count
        picked_P = (places_P.double() * length).long().clamp(max=length - 1)
        rows.append(x_BNC[order, picked_P.to(x_BNC.device)])
    return torch.cat(rows)


def _ratio_sum(module: AdjustedLinear, x: torch.Tensor, samples: Samples) -> float:
    # Swin's attention sees (windows of all samples, tokens of a window, channels).
    x_BNC = x.reshape(len(samples), -1, x.shape[-1])
    core_BNC = module.core(x_BNC)
    assert module.adapter is not None
    added_BNC = module.adapter(x_BNC)
    core_B, added_B = (_norms(y, samples) for y in (core_BNC, added_BNC))
    return float((added_B / core_B.clamp(min=_TINY)).sum())


def _norms(y_BNC: torch.Tensor, samples: Samples) -> torch.Tensor:
    """L2 norms over the tokens and channels of each sample: (B,)."""
    squares_BN = exact(y_BNC).square().sum(dim=2)
    mask_BN = _is_token(y_BNC, samples)
    if mask_BN is not None:
        squares_BN = squares_BN * mask_BN.to(squares_BN.device)
    return squares_BN.sum(dim=1).sqrt()


def _gate(module: Any) -> float | None:
    return None if module.gate is None else float(exact(module.gate).square().mean().sqrt())
