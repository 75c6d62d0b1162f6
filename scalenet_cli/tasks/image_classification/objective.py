"""Mixup, label smoothing and the loss of one micro-batch."""

from typing import final

import torch
from timm.data import Mixup
from torch.nn import functional as F

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.training.seeding import seed_everything


def check_mixup(recipe: ImageRecipe, micro_batch: int) -> None:
    """The samples of a micro-batch can be mixed in pairs, if they are to be.

    Raises:
        OptionError: their number is odd.
    """
    if micro_batch % 2 and (recipe.mixup > 0 or recipe.cutmix > 0):
        raise OptionError(
            f"mixup pairs the samples of a batch, but a device gets {micro_batch} at a time",
            hint="choose an even batch, or --set mixup=0 --set cutmix=0",
        )


@final
class Objective:
    """What a batch is turned into, and what its logits are compared with."""

    def __init__(self, recipe: ImageRecipe, num_classes: int) -> None:
        self._recipe = recipe
        self._mixup: Mixup | None = None
        if recipe.mixup > 0 or recipe.cutmix > 0:
            self._mixup = Mixup(
                mixup_alpha=recipe.mixup,
                cutmix_alpha=recipe.cutmix,
                prob=recipe.mixup_prob,
                switch_prob=recipe.mixup_switch_prob,
                label_smoothing=recipe.smoothing,
                num_classes=num_classes,
            )

    def prepare(
        self, images_BCHW: torch.Tensor, targets_B: torch.Tensor, *, epoch: int, purpose: str
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Seeds what is random in this micro-batch, drop path included, and mixes it.

        Targets come back as (B,) classes, or as (B, K) shares of classes where mixup is on.
        """
        seed_everything(self._recipe.seed, purpose)
        if self._mixup is None:
            return images_BCHW, targets_B
        off = self._recipe.mixup_off_epoch
        self._mixup.mixup_enabled = not (off and epoch >= off)
        mixed: tuple[torch.Tensor, torch.Tensor] = self._mixup(images_BCHW, targets_B)
        return mixed

    def loss(self, logits_BK: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross entropy, in float32."""
        smoothing = self._recipe.smoothing if targets.ndim == 1 else 0.0
        return F.cross_entropy(logits_BK.float(), targets, label_smoothing=smoothing)
