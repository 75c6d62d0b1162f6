"""The loss of the next tokens."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

import torch
from torch.nn import functional as F

from scalenet_cli.tasks.causal_lm.recipe import LanguageRecipe
from scalenet_cli.training.objective import Loss, Objective


@final
class NextToken:
    """Cross entropy of the tokens that are predicted; see training.objective.Objective."""

    wants_teacher: Final = False

    def __init__(self, recipe: LanguageRecipe) -> None:
        """Nothing of the recipe changes it."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor, teacher: Any) -> Loss:
        """Mean over T targets of (T, V) logits, in float32; 0 where there is none."""
        total = F.cross_entropy(outputs.float(), targets, reduction="sum")
        return Loss(total / max(len(targets), 1))


# How a recipe's sequences are trained on; an entry makes an objective of a recipe.
OBJECTIVES: Final[Mapping[str, Callable[[LanguageRecipe], Objective]]] = {"next-token": NextToken}
