"""Optimizer, learning rate, average of weights: timm's and PyTorch's, set up for tied models."""

from collections.abc import Mapping
from typing import Any, Final

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from scalenet_cli.plan.schema import Group
from scalenet_cli.plan.training import Recipe

_FUSED: Final = ("adamw", "adam", "sgd", "momentum")


def build_optimizer(
    model: nn.Module,
    recipe: Recipe,
    groups: Mapping[str, Group],
    *,
    fused: bool,
    layer_decay: float | None = None,
) -> Any:
    """Timm's optimizer of this name over the trained tensors.

    Weight decay leaves out one-dimensional tensors and those that the model names. With
    ``layer_decay`` a tied tensor, which has one entry here, has the depth of its first use.
    ``groups`` has the group of every tensor, by the model's key.
    """
    extra: dict[str, Any] = {}
    if recipe.opt_eps is not None:
        extra["eps"] = recipe.opt_eps
    if recipe.opt_betas is not None:
        extra["betas"] = recipe.opt_betas
    if fused and recipe.opt in _FUSED:
        extra["fused"] = True
    optimizer = create_optimizer_v2(
        model,
        opt=recipe.opt,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        layer_decay=layer_decay,
        **extra,
    )
    if recipe.lr_scale:
        factors = {
            id(parameter): recipe.lr_scale.get(groups[key], 1.0)
            for key, parameter in model.named_parameters()
        }
        _scale_rates(optimizer, factors)
    return optimizer


def _scale_rates(optimizer: Any, factors: Mapping[int, float]) -> None:
    """Splits the optimizer's groups by the factor of their tensors, before its first step.

    ``factors`` is by ``id``. A factor goes on top of layer decay's: timm's schedule multiplies the
    rate of a group by its ``lr_scale``.
    """
    split = []
    for group in optimizer.param_groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            parts.setdefault(factors[id(parameter)], []).append(parameter)
        for factor, members in parts.items():
            scale = group.get("lr_scale", 1.0) * factor
            split.append({**group, "params": members, "lr_scale": scale})
    optimizer.param_groups = split


def build_schedule(optimizer: Any, recipe: Recipe, steps: int) -> Any:
    """Linear warm-up, then a cosine down to ``min_lr`` at the last step; a function of the step."""
    warmup = min(round(recipe.warmup_share * steps), max(steps - 1, 0))
    return CosineLRScheduler(
        optimizer,
        t_initial=steps,
        lr_min=recipe.min_lr,
        warmup_t=warmup,
        warmup_lr_init=recipe.warmup_lr,
        t_in_epochs=False,
    )


class Average:
    """Exponential moving average of the trained tensors, each once, however often it is tied."""

    def __init__(self, trained: dict[str, nn.Parameter], decay: float) -> None:
        self._trained = nn.ParameterList(trained.values())
        self._keys = tuple(trained)
        update: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(self._trained, multi_avg_fn=update)

    def update(self) -> None:
        """Takes in the tensors after a step; the first time they are copied."""
        self._averaged.update_parameters(self._trained)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The averages, by key."""
        return dict(zip(self._keys, self._averaged.module.parameters(), strict=True))

    @property
    def num_averaged(self) -> int:
        """How many steps were taken in."""
        return int(self._averaged.n_averaged)

    @num_averaged.setter
    def num_averaged(self, count: int) -> None:
        self._averaged.n_averaged.fill_(count)

    @torch.no_grad()
    def swap(self) -> None:
        """The model computes with the averages until this is called again."""
        averages = self._averaged.module.parameters()
        for own, average in zip(self._trained.parameters(), averages, strict=True):
            kept = own.detach().clone()
            own.copy_(average)
            average.copy_(kept)
