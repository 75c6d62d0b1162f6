"""What timm's training script wrote into a checkpoint beside the weights, used as timm uses it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from scalenet_cli.errors import ArchitectureMismatch
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry
from scalenet_cli.families.timm_arguments import check_arguments
from scalenet_cli.families.timm_models import family_of, timm_family

# timm's name of what an option sets. An empty one of the second kind is none.
_STATED: Final[Mapping[str, str]] = {"gp": "global_pool", "mean": "mean", "std": "std"}
_STATED_UNLESS_EMPTY: Final = ("crop_pct", "interpolation", "crop_mode")
_MAX_ARGUMENTS: Final = 64
_MAX_SIDE: Final = 8192
# A repository of timm's own weights is called as timm calls them.
_HUB: Final = re.compile(r"hf[-_]hub:timm/([A-Za-z0-9_.]+)")


@dataclass(frozen=True, slots=True)
class Stated:
    """What a file says about its model, and the user says it is.

    Attributes:
        name: the architecture; None where nobody names one that timm has.
        arguments: timm's own, checked.
        notes: what was taken, for the user.
    """

    name: str | None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_options(
    checkpoint: Checkpoint, geometry: Geometry, arch: str | None, given: Mapping[str, Any]
) -> Stated:
    """The architecture and the arguments that a training script wrote; ``arch`` and ``given`` win.

    Shapes show the number of classes and of channels, so these are not read.

    Raises:
        ArchitectureMismatch: an option that timm could not have used.
    """
    stated, notes = _stated_name(checkpoint)
    name = arch or stated
    if stated is None and checkpoint.architecture is None:
        return Stated(name)  # whatever the options are of, it is not timm's script
    found, size_notes = _arguments(checkpoint, geometry)
    found = {key: value for key, value in found.items() if key not in given}
    notes = (*(() if arch else notes), *size_notes)
    if not found:
        return Stated(name, {}, notes)
    try:
        shown = name or f"the {geometry.family}"
        model_class = timm_family(geometry.family).model_class
        check_arguments(shown, model_class, {**geometry.head, **found})
    except ArchitectureMismatch as error:
        raise _refused(checkpoint, error.fact) from None
    listed = ", ".join(f"{key} {_shown(value)}" for key, value in found.items())
    taken = f"taken from the args that the training script saved: {listed}"
    return Stated(name, found, (*notes, f"{taken}; --model-kwargs wins over them"))


def _stated_name(checkpoint: Checkpoint) -> tuple[str | None, tuple[str, ...]]:
    """The architecture that the file names, if timm has it: a script may write what it likes."""
    texts = (checkpoint.architecture, checkpoint.options.get("model"))
    for text in texts:
        if not isinstance(text, str):
            continue
        hub = _HUB.fullmatch(text)
        name = hub.group(1) if hub else text
        if family_of(name) is not None:
            return name, ()
    if checkpoint.architecture is None:
        return None, ()
    # Without its options, timm writes the class's name: "visiontransformer".
    return None, (
        f"the file calls its architecture {checkpoint.architecture[:80]!r}, which is none of "
        "timm's that are supported; it is read by its shapes",
    )


def _arguments(
    checkpoint: Checkpoint, geometry: Geometry
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The options under timm's names, of which nothing but their form is checked here."""
    options = checkpoint.options
    found = {name: options[key] for key, name in _STATED.items() if options.get(key) is not None}
    found |= {key: options[key] for key in _STATED_UNLESS_EMPTY if not _is_empty(options.get(key))}
    size, notes = _size(checkpoint, geometry)
    found |= size
    kwargs = options.get("model_kwargs")
    if kwargs is None:
        return found, notes
    if not isinstance(kwargs, Mapping) or len(kwargs) > _MAX_ARGUMENTS:
        raise _refused(checkpoint, "model_kwargs is no mapping of arguments to values")
    if not all(isinstance(key, str) for key in kwargs):
        raise _refused(checkpoint, "a key of model_kwargs is no text")
    # timm.create_model takes None for "not given".
    return found | {key: value for key, value in kwargs.items() if value is not None}, notes


def _is_empty(value: object) -> bool:
    return value is None or (type(value) in (str, int, float) and not value)


def _size(checkpoint: Checkpoint, geometry: Geometry) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The image size that the model was built for.

    timm's --input-size is (channels, height, width) and wins over --img-size; DeiT's own script
    has an --input-size of one number. The positions of a ViT that takes images of any size may be
    of another size than its training images.
    """
    options = checkpoint.options
    size = options.get("input_size")
    if isinstance(size, list | tuple) and len(size) == 3:
        size = list(size[1:])
    elif size is None:
        size = options.get("img_size")
    if size is None:
        return {}, ()
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not all(type(side) is int and 0 < side <= _MAX_SIDE for side in sides):
        raise _refused(checkpoint, "img_size or input_size is no size of an image in pixels")
    built, patch = geometry.arguments.get("img_size"), geometry.arguments["patch_size"]
    fixed = timm_family(geometry.family).checkpoints.positions_fix_size
    if fixed and built and {s // patch for s in sides} != {built // patch}:
        shown = "x".join(map(str, sides))
        return {}, (
            f"it was trained at an image size of {shown}, but its positions are those of {built}: "
            f"it is built for {built}",
        )
    return {"img_size": size}, ()


def _refused(checkpoint: Checkpoint, fact: str) -> ArchitectureMismatch:
    return ArchitectureMismatch(
        f"the args that the training script saved cannot be used: {fact}",
        where=checkpoint.where,
        hint="give the right value with --model-kwargs, which wins over the file",
    )


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    return str(value)
