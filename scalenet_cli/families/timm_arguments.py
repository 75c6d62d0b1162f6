"""Which arguments of a timm architecture may come from a file or the command line."""

import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from scalenet_cli.errors import ArchitectureMismatch
from scalenet_cli.plan.schema import MAX_BLOCKS

# timm keeps these in the model's pretrained_cfg; they are no constructor arguments.
PREPROCESSING: Final = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
_CLASSES: Final = {"vit": VisionTransformer, "swin": SwinTransformer}
# Classes and placement: no plain values.
_NOT_PLAIN: Final = frozenset({"self", "device", "dtype", "block_fn", "embed_layer", "mlp_layer"})
# Largest sizes; timm allocates buffers of them when it builds, on whatever device parameters are.
_LIMITS: Final[Mapping[str, int]] = {
    "img_size": 8192,
    "patch_size": 1024,
    "in_chans": 4096,
    "embed_dim": 65536,
    "num_heads": 4096,
    "head_dim": 65536,
    "window_size": 64,
    "depth": MAX_BLOCKS,
    "depths": MAX_BLOCKS,
}
_MAX_CLASSES: Final = 10_000_000


def check_arguments(name: str, family: str, arguments: Mapping[str, Any]) -> None:
    """Every argument is one of the model's own, plain, and of a sensible size.

    timm.create_model takes more: paths, URLs and switches that change what it returns.

    Raises:
        ArchitectureMismatch: the first argument that is not.
    """
    allowed = set(inspect.signature(_CLASSES[family].__init__).parameters) - _NOT_PLAIN
    allowed |= {"norm_eps", *PREPROCESSING}
    for key, value in arguments.items():
        if key not in allowed:
            close = get_close_matches(key, sorted(allowed), n=1)
            raise ArchitectureMismatch(
                f"{key} is no argument of {name}",
                hint=f"did you mean {close[0]}?"
                if close
                else "--model-kwargs takes timm's own argument names, and norm_eps",
            )
        problem = _problem(key, value)
        if problem:
            raise ArchitectureMismatch(f"{key} of {name} is {str(value)[:80]}; {problem}")


def _problem(key: str, value: Any) -> str | None:
    values = list(value) if isinstance(value, list | tuple) else [value]
    if len(values) > 64 or not all(isinstance(v, int | float | str | None) for v in values):
        return "it takes plain values"
    if key in _LIMITS and not all(type(v) is int and 0 < v <= _LIMITS[key] for v in values):
        return f"it takes whole numbers from 1 to {_LIMITS[key]}"
    if key == "num_classes" and not (type(value) is int and 0 <= value <= _MAX_CLASSES):
        return f"it takes a whole number from 0 to {_MAX_CLASSES}"
    if key in ("norm_eps", "crop_pct") and not _is_number(value):
        return "it takes a number"
    if key in ("mean", "std") and not (len(values) in (1, 3) and all(map(_is_number, values))):
        return "it takes one number per channel"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
