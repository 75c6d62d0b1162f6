"""Mixup, label smoothing and the loss of one micro-batch."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from timm.data import Mixup
from torch.nn import functional as F

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.image_classification.recipe import ImageRecipe
from scalenet_cli.training.objective import Loss, Objective
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
class CrossEntropy:
    """Cross entropy with label smoothing; see training.objective.Objective."""

    wants_teacher: Final = False

    def __init__(self, recipe: ImageRecipe) -> None:
        self._smoothing = recipe.smoothing

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, teacher: Any) -> Loss:
        """Mean cross entropy of (B, K) logits, in float32.

        Targets are (B,) classes, or (B, K) shares of classes, which are smoothed already.
        """
        smoothing = self._smoothing if targets.ndim == 1 else 0.0
        return Loss(F.cross_entropy(outputs.float(), targets, label_smoothing=smoothing))


# How a recipe's images are trained on; an entry makes an objective of a recipe.
OBJECTIVES: Final[Mapping[str, Callable[[ImageRecipe], Objective]]] = {
    "cross-entropy": CrossEntropy,
}


@final
class Mixing:
    """Mixup and cutmix of a batch."""

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
