"""Builds transformers decoders, with and without values."""

from contextlib import AbstractContextManager
from types import ModuleType
from typing import TYPE_CHECKING, Any

from scalenet_cli.errors import ArchitectureMismatch, MissingExtra, install_hint
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.decoder_configs import (
    IGNORED_SETTINGS,
    check_config,
    check_layer_types,
    model_type,
)

if TYPE_CHECKING:
    from torch import nn


def build_decoder(architecture: Architecture) -> "nn.Module":
    """The transformers model with parameters on the meta device and real buffers."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False), _empty_on_meta():
        model: Any = create_decoder(architecture)
    model.tie_weights()
    built: nn.Module = model
    return built


def create_decoder(architecture: Architecture) -> "nn.Module":
    """The transformers model with its own initialisation, in the config's dtype.

    The class comes from our table: no code of a checkpoint is ever run.

    Raises:
        UnknownArchitecture: a model type that no family describes.
        ArchitectureMismatch: transformers refuses the config.
    """
    import torch

    transformers = _transformers()
    from huggingface_hub.errors import StrictDataclassError

    kind = model_type(architecture.arguments)
    check_config(architecture.arguments)
    settings = {k: v for k, v in architecture.arguments.items() if k not in IGNORED_SETTINGS}
    try:
        config = getattr(transformers, kind.config_class).from_dict(settings)
        found = vars(config)
        check_layer_types(found.get("layer_types"), found.get("sliding_window"))
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        # Not model.to(dtype): transformers keeps some buffers, such as inv_freq, in float32.
        model: nn.Module = getattr(transformers, kind.model_class)._from_config(config, dtype=dtype)
    except (
        StrictDataclassError, TypeError, ValueError, LookupError, AttributeError, RuntimeError,
        ArithmeticError, AssertionError,
    ) as error:  # fmt: skip
        raise ArchitectureMismatch(
            f"transformers refuses the config: {' '.join(str(error).split())}",
            hint="get the config.json that belongs to these weights, or mend that entry",
        ) from None
    return model.eval()


def _transformers() -> ModuleType:
    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"language models need the package {error.name}",
            hint=install_hint("language"),
        ) from None
    found: ModuleType = transformers
    return found


def _empty_on_meta() -> AbstractContextManager[object]:
    """torch.empty takes no memory: accelerate alone would first ask for that of each Linear."""
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = {**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})}
            return func(*args, **options)

    return EmptyOnMeta()
