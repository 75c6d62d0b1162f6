"""A family of timm models."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from timm.layers import DropPath, set_reentrant_ckpt
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import nn

from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import (
    Anatomy,
    InputUnit,
    OuterGroup,
    RandomInit,
    SourceRequest,
    group_by_pattern,
    require_class,
)
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.sources.timm_sources import open_timm_folder, open_timm_tensors
from scalenet_cli.families.timm_models import TimmKind, build_timm
from scalenet_cli.plan.layout import Layout


@final
@dataclass(frozen=True, slots=True)
class TimmFamily(TimmKind):
    """A family of timm models; what differs between them is given as functions and a table."""

    groups: tuple[tuple[str, OuterGroup], ...]
    anatomy: Callable[[Any], Anatomy]
    prepare: Callable[[Any], None]
    default_drop_path: Callable[[Any], float]
    repair: Callable[[Any, Layout], None]
    task: str = "image-classification"

    @property
    def input_unit(self) -> InputUnit:
        """See Family."""
        return "pixels"

    @property
    def has_classifier(self) -> bool:
        """See Family."""
        return True

    @property
    def takes_source_options(self) -> bool:
        """See Family. A checkpoint file of timm's has no config."""
        return True

    def reads_config(self, config: Mapping[str, Any]) -> bool:
        """See Family. timm's own config.json; which family it is, the name in it decides."""
        return "architecture" in config

    def open_folder(
        self, folder: Path, config: Mapping[str, Any], request: SourceRequest
    ) -> Source:
        """See Family."""
        return open_timm_folder(folder, config, request)

    def open_tensors(self, checkpoint: Checkpoint, request: SourceRequest) -> Source:
        """See Family."""
        return open_timm_tensors(checkpoint, request)

    def require(self, model: object) -> None:
        """See Family."""
        require_class(model, self.model_class, self.name)

    def build(self, architecture: Architecture) -> nn.Module:
        """See Family."""
        return build_timm(architecture)

    def group(self, key: str) -> OuterGroup | None:
        """See Family."""
        return group_by_pattern(key, self.groups)

    def shared_objects(self, model: nn.Module) -> Sequence[object]:
        """See Family."""
        return ()

    def drop_path(self, rate: float) -> nn.Module:
        """See Family. timm, too, leaves an Identity where the rate is 0."""
        return DropPath(rate) if rate > 0 else nn.Identity()

    def random_init(self, model: nn.Module) -> RandomInit:
        """Timm draws Linears and bias tables of these models with 0.02."""
        return RandomInit(std=0.02, norm=1.0)

    def replace_head(self, model: Any, num_classes: int) -> None:
        """See Family."""
        with torch.device("meta"):
            model.reset_classifier(num_classes)

    def checkpoint_gradients(self, model: Any) -> None:
        """See Family. Reentrant checkpoints lose the gradients of what is tied under DDP."""
        set_reentrant_ckpt(False)
        model.set_grad_checkpointing(True)

    def finish(self, model: nn.Module, folder: Path, files: Collection[str]) -> None:
        """Timm computes attention masks on the device of a norm, which was meta when it built."""
        reinit_non_persistent_buffers(model)

    def save_with(self, model: nn.Module, save: Callable[..., None]) -> None:
        """See Family. timm's models have no such method."""

    def image_preparation(self, model: Any) -> Mapping[str, Any]:
        """See Family."""
        embed = model.patch_embed
        size = (int(embed.proj.in_channels), *map(int, embed.img_size))
        fixed = bool(embed.strict_img_size)
        return {**model.pretrained_cfg, "input_size": size, "fixed_input_size": fixed}

    def default_input_size(self, model: Any) -> int:
        """See Family."""
        return int(model.patch_embed.img_size[0])

    def example_inputs(self, model: Any, size: int, device: str) -> dict[str, Any]:
        """See Family."""
        channels = model.patch_embed.proj.in_channels
        return {"x": torch.zeros(1, channels, size, size, device=device)}
