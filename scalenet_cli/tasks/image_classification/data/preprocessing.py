"""How images become a model's input: timm's names, the model's own values, overrides."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from timm.data import resolve_data_config

from scalenet_cli.errors import ArchitectureMismatch, OptionError

NAMES: Final = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")
INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
CROP_MODES: Final = ("center", "border", "squash")
# timm resizes to image size / crop_pct before it crops: a tiny share makes a huge image.
_CROP_PCT: Final = (0.05, 4.0)


def resolve_preprocessing(
    own_config: Mapping[str, Any], overrides: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Input size (channels, height, width), mean, std, interpolation, crop_pct and crop_mode.

    ``own_config`` is what the family says of the model (Family.image_preparation). The size is the
    one that the model is built for; another one is possible only where the model itself takes any.

    Raises:
        OptionError: an override cannot be used.
        ArchitectureMismatch: the model's own value cannot.
    """
    given = dict(overrides or {})
    unknown = sorted(given.keys() - set(NAMES))
    if unknown:
        raise OptionError(
            f"{unknown[0]} is no preprocessing of timm's", hint=f"there are {', '.join(NAMES)}"
        )
    channels = int(own_config["input_size"][0])
    own = resolve_data_config(pretrained_cfg=dict(own_config))
    found = {name: given.get(name, own[name]) for name in NAMES}
    found["input_size"] = _input_size(own_config, given.get("input_size"))
    for name in ("mean", "std"):
        values = [found[name]] if isinstance(found[name], int | float) else found[name]
        found[name] = _per_channel(values, channels, spread=name not in given)
    for name in NAMES:
        problem = _problem(name, found[name], channels)
        if problem and name in given:
            raise OptionError(f"--{name.replace('_', '-')} is {given[name]}, but {problem}")
        if problem:
            raise ArchitectureMismatch(
                f"{name} of the model's preprocessing is {found[name]}, but {problem}",
                hint=f"give --{name.replace('_', '-')}",
            )
    return found


def _per_channel(values: Any, channels: int, *, spread: bool) -> Any:
    """One number per channel; ``spread`` makes three of ImageNet's fit a model of one channel."""
    if not isinstance(values, Sequence) or not values or not all(map(_finite, values)):
        return values
    if spread and len(values) != channels:
        return (sum(values) / len(values),) * channels
    return (*values,) * channels if len(values) == 1 else tuple(values)


def _input_size(own_config: Mapping[str, Any], given: Any) -> tuple[int, int, int]:
    channels, height, width = own_config["input_size"]
    built = (channels, height, width)
    if given is None:
        return built
    wanted = (channels, given, given) if isinstance(given, int) else tuple(given)
    if len(wanted) != 3 or not all(type(n) is int and 0 < n <= 8192 for n in wanted):
        raise OptionError(f"--input-size is {given}, but it takes N or C,H,W, from 1 to 8192")
    if wanted != built and (wanted[0] != channels or own_config["fixed_input_size"]):
        shown = " x ".join(map(str, built))
        raise OptionError(
            f"--input-size {given} is not what the model takes: {shown}",
            hint="leave it out; a timm: or .pth target can be built for another size with "
            "--model-kwargs dynamic_img_size=true",
        )
    return wanted


def _problem(name: str, value: Any, channels: int) -> str | None:
    if name in ("mean", "std"):
        if not isinstance(value, tuple) or len(value) != channels or not all(map(_finite, value)):
            return f"the model takes {channels} numbers, or one for all channels"
        if name == "std" and min(value) <= 0:
            return "it has to be above 0"
    low, high = _CROP_PCT
    if name == "crop_pct" and not (_finite(value) and low <= value <= high):
        return f"it has to be from {low} to {high}"
    choices = {"interpolation": INTERPOLATIONS, "crop_mode": CROP_MODES}.get(name)
    if choices and value not in choices:
        return f"there are {', '.join(choices)}"
    return None


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and type(value) is not bool and math.isfinite(value)
