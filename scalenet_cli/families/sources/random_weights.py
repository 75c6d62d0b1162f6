"""Sources without a checkpoint: the library's own initialisation, from a seed."""

from typing import TYPE_CHECKING

from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.sources.tensors import hold

if TYPE_CHECKING:
    from torch import nn


def random_timm(architecture: Architecture, seed: int) -> Source:
    """A timm model at full size with timm's initialisation."""
    import torch

    from scalenet_cli.families.timm_models import create_timm, preprocessing

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = create_timm(architecture)
    return _source(architecture, model, preprocessing(model))


def random_decoder(architecture: Architecture, seed: int) -> Source:
    """A transformers decoder at full size with transformers' initialisation."""
    import torch

    from scalenet_cli.families.build_decoder import create_decoder

    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        model = create_decoder(architecture)
    return _source(architecture, model, {})


def _source(architecture: Architecture, model: "nn.Module", shown: dict[str, object]) -> Source:
    tensors = {key: hold(parameter.data, key) for key, parameter in model.named_parameters()}
    return Source(architecture, tensors, kind="random", preprocessing=shown)
