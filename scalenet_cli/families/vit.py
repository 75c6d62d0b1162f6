"""timm's isotropic vision transformers: ViT, DeiT, distilled DeiT."""

from typing import Any, Final

from timm.models.vision_transformer import ResPostBlock, VisionTransformer

from scalenet_cli.families.base import Anatomy, OuterGroup, StageRef
from scalenet_cli.families.timm_models import TimmFamily
from scalenet_cli.plan.layout import Layout

_NORMS: Final = ("norm1", "norm2", "attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")
_LAYER_SCALES: Final = ("ls1", "ls2")
_GROUPS: Final[tuple[tuple[str, OuterGroup], ...]] = (
    ("patch_embed.norm.*", "norms"),
    ("patch_embed.*", "embeddings"),
    ("cls_token", "embeddings"),
    ("dist_token", "embeddings"),
    ("reg_token", "embeddings"),
    ("pos_embed", "embeddings"),
    ("norm.*", "norms"),
    ("norm_pre.*", "norms"),
    ("fc_norm.*", "norms"),
    ("head.*", "head"),
    ("head_dist.*", "head"),
    ("attn_pool.*", "head"),
)


def _stages(model: Any) -> tuple[StageRef, ...]:
    return (StageRef("blocks", len(model.blocks), model.embed_dim),)


def _anatomy(block: Any) -> Anatomy:
    # Norms and layer scales that a variant lacks are Identity in timm.
    present = {key.rpartition(".")[0] for key, _ in block.named_parameters()}
    return Anatomy(
        attention=("attn.qkv", "attn.proj"),
        mlp=("mlp.fc1", "mlp.fc2"),
        closing=("attn.proj", "mlp.fc2"),
        norms=tuple(path for path in _NORMS if path in present),
        others=tuple(path for path in _LAYER_SCALES if path in present),
        drop_paths=("drop_path1", "drop_path2"),
        norm_after_closing=isinstance(block, ResPostBlock),
        bias_after_closing=isinstance(block, ResPostBlock),
    )


def _prepare(block: Any) -> None:
    """All tied tensors are in Linears or layer scales already."""


def _default_drop_path(model: Any) -> float:
    """0 for DeiT-T, 0.2 for DeiT-S, 0.5 from DeiT-B on (the paper's settings)."""
    if model.embed_dim <= 192:
        return 0.0
    return 0.2 if model.embed_dim < 768 else 0.5


def _repair(model: Any, layout: Layout) -> None:
    """Timm's feature table names one entry per block."""
    (stage,) = layout.stages
    one = model.feature_info[0]
    model.feature_info = [
        {**one, "module": f"blocks.{instance.position}"} for instance in stage.instances
    ]


VIT: Final = TimmFamily(
    name="vit",
    model_class=VisionTransformer,
    groups=_GROUPS,
    stages=_stages,
    anatomy=_anatomy,
    prepare=_prepare,
    default_drop_path=_default_drop_path,
    repair=_repair,
)
