"""What the shapes of a timm checkpoint say about its architecture."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from scalenet_cli.errors import ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families.sources.checkpoint import Checkpoint

_MAX_DIGITS: Final = 6
_MAX_STAGES: Final = 16
# What the word in a ViT's name means, in timm and in every paper.
_VIT_WIDTHS: Final = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes read off the tensors, under timm's argument names.

    Attributes:
        arguments: all sizes; a ViT has no ``img_size`` here where its position embedding is
            missing, or no square.
        head: those that differ between finetunes of one architecture: classes and channels.
        heads_known: whether the shapes show the number of heads.
        assumed: arguments that the shapes leave open, as they are taken.
    """

    family: str
    arguments: Mapping[str, Any]
    head: Mapping[str, Any]
    heads_known: bool
    distilled: bool = False
    assumed: tuple[str, ...] = ()

    def may_be(self, name: str, input_size: Sequence[int]) -> bool:
        """A cheap test on an architecture, before it is built and compared.

        ``input_size`` is timm's (channels, height, width) of it.
        """
        sizes = self.arguments
        patch = re.search(r"patch(\d+)", name)
        if patch is not None and int(patch.group(1)) != sizes["patch_size"]:
            return False
        if self.family != "vit":
            return True
        # A remainder of the image is cut off: siglip's 384 pixels are 27 patches of 14.
        side = input_size[-1] // sizes["patch_size"]
        if "img_size" in sizes and side != sizes["img_size"] // sizes["patch_size"]:
            return False
        if not name.startswith("vit_") or "_plus_" in name:
            return True
        width = next((w for word, w in _VIT_WIDTHS.items() if f"_{word}_" in name), None)
        return width is None or width == sizes["embed_dim"]

    @property
    def summary(self) -> str:
        """The sizes that people recognise a model by."""
        shown = ("img_size", "patch_size", "embed_dim", "depth", "depths", "num_heads")
        return ", ".join(f"{key} {self.arguments[key]}" for key in shown if key in self.arguments)


def vit_geometry(checkpoint: Checkpoint) -> Geometry:
    """The sizes of a ViT or DeiT; the number of heads is not among them."""
    shapes = _Shapes(checkpoint)
    width, channels, _, patch = shapes["patch_embed.proj.weight"]
    hidden = shapes["blocks.0.mlp.fc1.weight"][0]
    classes = shapes["head.weight"][0] if "head.weight" in shapes else 0
    head = _head(classes, channels)
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
    return Geometry("vit", {**arguments, **head}, head, heads_known, distilled, assumed)


def _grid(shapes: "_Shapes", patch: int) -> dict[str, Any]:
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


def _pooling(shapes: "_Shapes") -> dict[str, Any]:
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


def _variant(shapes: "_Shapes") -> dict[str, Any]:
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


def swin_geometry(checkpoint: Checkpoint) -> Geometry:
    """The sizes of a Swin; bias tables show heads and windows, old buffers the image size."""
    shapes = _Shapes(checkpoint)
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
    head = _head(classes, channels)
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
    return Geometry("swin", {**arguments, **head}, head, True, assumed=assumed)


def _head(classes: int, channels: int) -> dict[str, Any]:
    head: dict[str, Any] = {"num_classes": classes}
    if channels != 3:
        head["in_chans"] = channels
    return head


class _Shapes:
    """Shapes by key; a missing key or an odd rank is the checkpoint's fault, not ours."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __contains__(self, key: str) -> bool:
        return key in self._checkpoint.tensors

    def __getitem__(self, key: str) -> tuple[int, ...]:
        ranks = {"patch_embed.proj.weight": 4, "pos_embed": 3, "reg_token": 3}
        rank = ranks.get(key, 3 if key.endswith("attn_mask") else 2)
        rank = 1 if key.endswith("q_norm.weight") else rank
        tensor = self._checkpoint.tensors.get(key)
        if tensor is None or len(tensor.spec.shape) != rank or 0 in tensor.spec.shape:
            found = "is missing" if tensor is None else f"has the shape {tensor.spec.shape}"
            raise UnknownArchitecture(f"{key} {found}", where=self._checkpoint.where)
        return tensor.spec.shape

    def count(self, pattern: str) -> int:
        """One more than the largest number that the pattern finds in a key."""
        found = (re.match(pattern, key) for key in self._checkpoint.tensors)
        numbers = [match.group(1) for match in found if match]
        if any(len(number) > _MAX_DIGITS for number in numbers):
            raise ArchitectureMismatch(
                "a key counts more blocks than any model has", where=self._checkpoint.where
            )
        return max(map(int, numbers), default=-1) + 1
