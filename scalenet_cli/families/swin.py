"""timm's Swin transformers: four stages, window attention with a relative position bias table."""

import math
from typing import Any, Final, final

import torch
from timm.models.swin_transformer import SwinTransformer, WindowAttention, checkpoint_filter_fn
from torch import nn

from scalenet_cli.errors import ArchitectureMismatch
from scalenet_cli.families.base import Anatomy, OuterGroup, StageRef
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry, Shapes, head_arguments
from scalenet_cli.families.timm_checkpoints import TimmCheckpoints
from scalenet_cli.families.timm_family import TimmFamily
from scalenet_cli.plan.layout import Layout

_MAX_STAGES: Final = 16
_GROUPS: Final[tuple[tuple[str, OuterGroup], ...]] = (
    ("patch_embed.norm.*", "norms"),
    ("patch_embed.*", "embeddings"),
    ("layers.*.downsample.norm.*", "norms"),
    # Patch merging is the embedding of the next stage: it is tied to nothing.
    ("layers.*.downsample.reduction.*", "embeddings"),
    ("norm.*", "norms"),
    ("head.*", "head"),
)


@final
class BiasTable(nn.Module):
    """Owns a relative position bias table, so that instances can share a module.

    Shapes:
        table is ((2*Wh - 1) * (2*Ww - 1), heads).
    """

    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.table = table

    def forward(self) -> torch.Tensor:
        """The table. Called, not read, because sharding (FSDP2) gathers what is called."""
        return self.table


@final
class SharedTableAttention(WindowAttention):  # type: ignore[misc]
    """timm's WindowAttention with its bias table in a module; it computes the same."""

    # Read by timm's forward. A property wins over the Parameter that prepare() takes away.
    @property
    def relative_position_bias_table(self) -> torch.Tensor:
        """The table that the instances of this block share."""
        table: torch.Tensor = self.shared_relative_position_bias_table()
        return table


def _stages(model: Any) -> tuple[StageRef, ...]:
    return tuple(
        StageRef(f"layers.{index}.blocks", len(stage.blocks), stage.blocks[0].dim)
        for index, stage in enumerate(model.layers)
    )


def _anatomy(block: Any) -> Anatomy:
    return Anatomy(
        attention=("attn.qkv", "attn.proj"),
        mlp=("mlp.fc1", "mlp.fc2"),
        closing=("attn.proj", "mlp.fc2"),
        norms=("norm1", "norm2"),
        others=("attn.shared_relative_position_bias_table",),
        drop_paths=("drop_path1", "drop_path2"),
    )


def _prepare(block: Any) -> None:
    """The bias table is a Parameter of the attention in timm; it becomes a module."""
    attention = block.attn
    table = attention.relative_position_bias_table
    del attention.relative_position_bias_table
    attention.__class__ = SharedTableAttention
    # timm's no_weight_decay() looks for the old name inside the key.
    attention.shared_relative_position_bias_table = BiasTable(table)


def _default_drop_path(model: Any) -> float:
    """0.5 for Swin-B, 0.2 for smaller ones (the paper's settings)."""
    return 0.5 if model.layers[0].blocks[0].dim >= 128 else 0.2


def _repair(model: Any, layout: Layout) -> None:
    """Each stage keeps its number of blocks."""
    for stage, slots in zip(model.layers, layout.stages, strict=True):
        stage.depth = len(slots.instances)


def _geometry(checkpoint: Checkpoint) -> Geometry:
    """The sizes of a Swin; bias tables show heads and windows, old buffers the image size."""
    shapes = Shapes(checkpoint)
    width, channels, _, patch = shapes["patch_embed.proj.weight"]
    stages = shapes.count(r"layers\.(\d+)\.")
    if stages > _MAX_STAGES:
        raise ArchitectureMismatch(
            f"a key names stage {stages - 1}; no Swin has so many", where=checkpoint.where
        )
    depths = tuple(shapes.count(rf"layers\.{stage}\.blocks\.(\d+)\.") for stage in range(stages))
    tables = [
        shapes[f"layers.{stage}.blocks.0.attn.relative_position_bias_table"]
        for stage in range(stages)
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    size = window * patch * 2 ** (stages - 1)
    has_mask = "layers.0.blocks.1.attn_mask" in shapes
    if has_mask:
        size = math.isqrt(shapes["layers.0.blocks.1.attn_mask"][0]) * window * patch
    hidden = shapes["layers.0.blocks.0.mlp.fc1.weight"][0]
    classifier = "head.fc.weight" if "head.fc.weight" in shapes else "head.weight"
    classes = shapes[classifier][0] if classifier in shapes else 0
    head = head_arguments(classes, channels)
    arguments = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depths": depths,
        "num_heads": tuple(table[1] for table in tables),
        "window_size": window,
        "mlp_ratio": hidden / width,
    }
    assumed = () if has_mask else ("img_size",)
    generic = "swin_base_patch4_window7_224"
    return Geometry(
        family="swin", generic=generic, arguments={**arguments, **head}, head=head,
        heads_known=True, assumed=assumed,
    )  # fmt: skip


def _filter_keys(tensors: dict[str, Any], model: Any) -> dict[str, Any]:
    renamed: dict[str, Any] = checkpoint_filter_fn(tensors, model)
    return renamed


SWIN: Final = TimmFamily(
    name="swin",
    model_class=SwinTransformer,
    groups=_GROUPS,
    stages=_stages,
    anatomy=_anatomy,
    prepare=_prepare,
    default_drop_path=_default_drop_path,
    repair=_repair,
    checkpoints=TimmCheckpoints(
        modules=("swin_transformer",),
        signs=("layers.0.blocks.0.attn.relative_position_bias_table",),
        geometry=_geometry,
        filter_keys=_filter_keys,
        # All of timm's Swins have four stages.
        shallow={"depths": (1, 1, 1, 1)},
    ),
)
