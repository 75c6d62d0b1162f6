"""timm's isotropic vision transformers: ViT, DeiT, distilled DeiT."""

import math
from collections.abc import Sequence
from typing import Any, Final

from timm.models.vision_transformer import ResPostBlock, VisionTransformer, checkpoint_filter_fn

from scalenet_cli.families.base import Anatomy, OuterGroup, StageRef
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry, Shapes, head_arguments
from scalenet_cli.families.timm_checkpoints import TimmCheckpoints
from scalenet_cli.families.timm_family import TimmFamily
from scalenet_cli.plan.layout import Layout

_NORMS: Final = ("norm1", "norm2", "attn.q_norm", "attn.k_norm", "attn.norm", "mlp.norm")
# What the word in a name means, in timm and in every paper.
_WIDTHS: Final = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}
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


def _geometry(checkpoint: Checkpoint) -> Geometry:
    """The sizes of a ViT or DeiT; the number of heads is not among them."""
    shapes = Shapes(checkpoint)
    width, channels, _, patch = shapes["patch_embed.proj.weight"]
    hidden = shapes["blocks.0.mlp.fc1.weight"][0]
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    head = head_arguments(classes, channels)
    distilled = "dist_token" in shapes
    pooling = {} if distilled else _pooling(shapes)
    arguments: dict[str, Any] = {
        **_grid(shapes, patch),
        "patch_size": patch,
        "embed_dim": width,
        "depth": shapes.count(r"blocks\.(\d+)\."),
        "mlp_ratio": hidden / width,
        "qkv_bias": "blocks.0.attn.qkv.bias" in shapes,
        **pooling,
        **_variant(shapes),
    }
    # A classifier may read the class token or the mean: after one norm they look the same.
    open_pooling = pooling.get("global_pool") == "token" and "norm.weight" in shapes
    assumed = ("global_pool",) if open_pooling else ()
    heads_known = "blocks.0.attn.q_norm.weight" in shapes
    if heads_known:
        arguments["num_heads"] = width // shapes["blocks.0.attn.q_norm.weight"][0] or 1
    generic = "deit_base_distilled_patch16_224" if distilled else "vit_base_patch16_224"
    return Geometry(
        family="vit",
        generic=generic,
        arguments={**arguments, **head},
        head=head,
        heads_known=heads_known,
        assumed=assumed,
    )


def _grid(shapes: Shapes, patch: int) -> dict[str, Any]:
    """The image size, from the positions, which may or may not count the prefix tokens."""
    if "pos_embed" not in shapes:
        return {"pos_embed": "none"}
    tokens = shapes["pos_embed"][1]
    prefix = sum(key in shapes for key in ("cls_token", "dist_token"))
    prefix += shapes["reg_token"][1] if "reg_token" in shapes else 0
    for patches in dict.fromkeys((tokens - prefix, tokens)):
        side = math.isqrt(max(patches, 0))
        if side and side * side == patches:
            alone: dict[str, Any] = {"no_embed_class": True} if patches != tokens - prefix else {}
            return {"img_size": side * patch, **alone}
    return {}


def _pooling(shapes: Shapes) -> dict[str, Any]:
    """Which tokens the head reads, and where the last norm is.

    Only what differs from timm's defaults is named, so that a plain ViT's arguments stay few.
    """
    has_token, normed_mean = "cls_token" in shapes, "fc_norm.weight" in shapes
    pool = "token" if has_token and not normed_mean else "avg"
    if "attn_pool.latent" in shapes:
        return {"class_token": has_token, "global_pool": "map"}
    arguments: dict[str, Any] = {"class_token": has_token, "global_pool": pool}
    if pool == "avg" and not normed_mean:
        arguments["fc_norm"] = False
    return arguments


def _variant(shapes: Shapes) -> dict[str, Any]:
    """Parts that a plain ViT does not have."""
    parts: dict[str, tuple[str, Any]] = {
        # Its value starts the training, and stands in the tensors afterwards.
        "blocks.0.ls1.gamma": ("init_values", 1e-5),
        "blocks.0.attn.q_norm.weight": ("qk_norm", True),
        "norm_pre.weight": ("pre_norm", True),
    }
    found = dict(argument for key, argument in parts.items() if key in shapes)
    if "reg_token" in shapes:
        found["reg_tokens"] = shapes["reg_token"][1]
    return found


def _may_be(geometry: Geometry, name: str, input_size: Sequence[int]) -> bool:
    """Whether the positions and the word for the width in the name fit."""
    sizes = geometry.arguments
    # A remainder of the image is cut off: siglip's 384 pixels are 27 patches of 14.
    side = input_size[-1] // sizes["patch_size"]
    if "img_size" in sizes and side != sizes["img_size"] // sizes["patch_size"]:
        return False
    if not name.startswith("vit_") or "_plus_" in name:
        return True
    width = next((w for word, w in _WIDTHS.items() if f"_{word}_" in name), None)
    return width is None or width == sizes["embed_dim"]


def _filter_keys(tensors: dict[str, Any], model: Any) -> dict[str, Any]:
    layer_scales = any("gamma_" in key for key in tensors)
    renamed: dict[str, Any] = checkpoint_filter_fn(tensors, model, adapt_layer_scale=layer_scales)
    return renamed


VIT: Final = TimmFamily(
    name="vit",
    model_class=VisionTransformer,
    groups=_GROUPS,
    stages=_stages,
    anatomy=_anatomy,
    prepare=_prepare,
    default_drop_path=_default_drop_path,
    repair=_repair,
    checkpoints=TimmCheckpoints(
        modules=("deit", "vision_transformer"),
        signs=("blocks.0.attn.qkv.weight", "patch_embed.proj.weight"),
        geometry=_geometry,
        may_be=_may_be,
        filter_keys=_filter_keys,
        shallow={"depth": 1},
        positions_fix_size=True,
    ),
)
