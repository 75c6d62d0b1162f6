"""Which arguments of a timm architecture may come from a file or the command line."""

import inspect
import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Final

from scalenet_cli.errors import ArchitectureMismatch
from scalenet_cli.plan.schema import MAX_BLOCKS

# timm keeps these in the model's pretrained_cfg; they are no constructor arguments.
PREPROCESSING: Final = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
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
_MAX_VALUES: Final = 64
_MAX_LENGTH: Final = 200
_MAX_INTEGER: Final = 2**53


def check_arguments(name: str, model_class: type, arguments: Mapping[str, Any]) -> None:
    """Every argument is one of the model's own, plain, and of a sensible size.

    timm.create_model takes more: paths, URLs and switches that change what it returns.

    Raises:
        ArchitectureMismatch: the first argument that is not.
    """
    allowed = set(inspect.signature(model_class).parameters) - _NOT_PLAIN
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
        values = list(value) if isinstance(value, list | tuple) else [value]
        if len(values) > _MAX_VALUES or not all(map(_is_plain, values)):
            kind = type(value).__name__
            raise ArchitectureMismatch(f"{key} of {name} is no plain value, but of type {kind}")
        problem = _problem(key, value, values, arguments.get("in_chans", 3))
        if problem:
            raise ArchitectureMismatch(f"{key} of {name} is {str(value)[:80]}; {problem}")


def _is_plain(value: Any) -> bool:
    """Short and finite, so that it can be printed, written to JSON and compared."""
    if isinstance(value, str):
        return len(value) <= _MAX_LENGTH and value.isprintable()
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or (isinstance(value, int) and abs(value) <= _MAX_INTEGER)


def _problem(key: str, value: Any, values: list[Any], channels: Any) -> str | None:
    if key in _LIMITS and not all(type(v) is int and 0 < v <= _LIMITS[key] for v in values):
        return f"it takes whole numbers from 1 to {_LIMITS[key]}"
    if key == "num_classes" and not (type(value) is int and 0 <= value <= _MAX_CLASSES):
        return f"it takes a whole number from 0 to {_MAX_CLASSES}"
    if key in ("norm_eps", "crop_pct") and not (_is_number(value) and value > 0):
        return "it takes a number above 0"
    if key in ("mean", "std"):
        counts = (1, 3, channels)
        if len(values) not in counts or not all(map(_is_number, values)):
            return "it takes one number per channel"
        if key == "std" and min(values) <= 0:
            return "it takes numbers above 0"
    if key in ("interpolation", "crop_mode") and not isinstance(value, str):
        return "it takes a name"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
