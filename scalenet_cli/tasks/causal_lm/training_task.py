"""Causal language modelling as a task of the engine."""

import math
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final, final

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import Group
from scalenet_cli.tasks.causal_lm.data.corpus import Corpus
from scalenet_cli.tasks.causal_lm.data.samples import (
    IGNORED,
    Row,
    TokenBatch,
    TokenRows,
    collate_rows,
    grouped_order,
)
from scalenet_cli.tasks.causal_lm.metrics import METRICS
from scalenet_cli.tasks.causal_lm.objective import OBJECTIVES
from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.training.base_model import base_outputs
from scalenet_cli.training.devices import Devices
from scalenet_cli.training.objective import Loss
from scalenet_cli.training.order import epoch_order
from scalenet_cli.training.seeding import seed_everything
from scalenet_cli.training.training_task import Run, Scores, Skipped

# Beyond it exp() overflows.
_MAX_LOSS: Final = 700.0

# Shape legend: B rows, N tokens, C channels, T targets, V vocabulary.


@final
class LanguageTask:
    """Token sequences of two splits; perplexity chooses the best. See TrainingTask."""

    metric: ClassVar[str] = METRICS[0].name
    larger_is_better: ClassVar[bool] = METRICS[0].larger_is_better
    even: ClassVar[bool] = False
    default_workers: ClassVar[int] = 0
    bundle_name: ClassVar[str] = "bundle or tokenizer"
    same_options: ClassVar[tuple[str, ...]] = ("--limit-train", "--limit-val", "--val-data")

    def __init__(self, recipe: LanguageRecipe, corpus: Corpus, *, place: str) -> None:
        self._recipe = recipe
        self.place: Final = place
        room = corpus.max_length if recipe.packing else None
        self.training: Final = TokenRows(corpus.train, room=room, longest_first=False)
        self.validation: Final = TokenRows(corpus.val, room=None, longest_first=True)
        self.sizes: Final = (len(self.training), len(self.validation))
        self._head = _ChosenRows()
        self._objective = OBJECTIVES["next-token"](recipe)
        self._base: tuple[nn.Module, Layout] | None = None

    def collate(self, samples: Sequence[Row]) -> TokenBatch:
        """Padded rows."""
        return collate_rows(samples)

    def order(self, epoch: int) -> torch.Tensor:
        """A permutation; by length, batch by batch, where the recipe says so."""
        recipe = self._recipe
        if recipe.group_by_length and not recipe.packing:
            return grouped_order(self.training.lengths, recipe.batch_size, recipe.seed, epoch)
        return epoch_order(self.sizes[0], recipe.seed, epoch)

    def check(self, micro_batch: int) -> None:
        """Any number of rows will do."""

    def prepare(self, model: nn.Module, layout: Layout, family: Family) -> None:
        """The head answers only where something is to be predicted."""
        self._head.listen(model)
        self._base = (model, layout)

    def accept(self, batch: TokenBatch, size: int) -> tuple[Skipped, ...]:
        """Nothing is skipped while training: records were checked when they became tokens."""
        return ()

    def num_targets(self, batch: TokenBatch) -> int:
        """Tokens that are predicted."""
        return int((batch.labels_BN[:, 1:] != IGNORED).sum())

    def loss(
        self, run: Run, batch: TokenBatch, device: torch.device, *, epoch: int, purpose: str
    ) -> Loss:
        """The objective's, of the predicted tokens."""
        seed_everything(self._recipe.seed, purpose)
        teacher = None
        if self._objective.wants_teacher:
            assert self._base is not None
            teacher, _ = base_outputs(
                *self._base, lambda: self._answer(run, batch, device), compiled=self._recipe.compile
            )
        logits_TV, labels_T = self._answer(run, batch, device)
        return self._objective.loss(logits_TV, labels_T, teacher)

    def remarks(self, before: float, trained: Collection[Group]) -> tuple[str, ...]:
        """None: a language model answers whatever tokens it is shown."""
        return ()

    def evaluate(self, model: nn.Module, batches: "DataLoader[Any]", devices: Devices) -> Scores:
        """Perplexity is of all predicted tokens, each counted once."""
        sums = torch.zeros(2, dtype=torch.float64)  # loss, tokens
        for batch in batches:
            # A sharded model needs every rank at every pass, one without rows included.
            held = batch if len(batch.tokens_BN) else _any_batch()
            with torch.no_grad(), devices.autocast(self._recipe.precision):
                loss = self._loss_sum(model, held, devices.device)
            if len(batch.tokens_BN):
                sums += torch.tensor([float(loss), self.num_targets(batch)], dtype=torch.float64)
        if devices.device.type == "cuda":
            sums = sums.to(devices.device)
        total, tokens = devices.sum(sums).tolist()
        mean = total / tokens
        perplexity = math.exp(min(mean, _MAX_LOSS)) if not math.isnan(mean) else mean
        text = f"perplexity {perplexity:.4g}, loss {mean:.4f}"
        return Scores(mean, {"perplexity": perplexity}, text)

    def _loss_sum(self, run: Run, batch: TokenBatch, device: torch.device) -> torch.Tensor:
        """Summed cross entropy, in float32, of the tokens that are targets."""
        logits_TV, labels_T = self._answer(run, batch, device)
        return F.cross_entropy(logits_TV.float(), labels_T, reduction="sum")

    def _answer(
        self, run: Run, batch: TokenBatch, device: torch.device
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (T, V) where a token is predicted, and these tokens (T,).

        Without an attention mask: padding is on the right, where causal attention does not look.
        """
        inputs: dict[str, Any] = {"input_ids": batch.tokens_BN.to(device, non_blocking=True)}
        if batch.positions_BN is not None:
            inputs["position_ids"] = batch.positions_BN.to(device, non_blocking=True)
        labels_BN = batch.labels_BN[:, 1:].to(device, non_blocking=True)
        chosen_BN = labels_BN != IGNORED
        with self._head.at(chosen_BN):
            logits_TV = run(**inputs, use_cache=False).logits
        return logits_TV, labels_BN[chosen_BN]


@final
class _ChosenRows:
    """Makes a model's head answer at chosen places alone: logits are (T, V), and not (B, N, V).

    A hook, because the head has to be called by the model: FSDP2 gathers its weights for that.
    """

    def __init__(self) -> None:
        self._chosen_BN: torch.Tensor | None = None

    def listen(self, model: Any) -> None:
        """Hears of every call of the model's head from now on."""
        model.get_output_embeddings().register_forward_pre_hook(self._choose)

    @contextmanager
    def at(self, chosen_BN: torch.Tensor) -> Iterator[None]:
        """Inside, the head answers where ``chosen`` says so; the last token has no place there."""
        self._chosen_BN = chosen_BN
        try:
            yield
        finally:
            self._chosen_BN = None

    def _choose(self, head: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
        if self._chosen_BN is None:
            return None
        hidden_BNC, *others = inputs
        return (hidden_BNC[:, :-1][self._chosen_BN], *others)


def _any_batch() -> TokenBatch:
    return TokenBatch(
        torch.zeros(1, 2, dtype=torch.long), torch.zeros(1, 2, dtype=torch.long), None
    )
