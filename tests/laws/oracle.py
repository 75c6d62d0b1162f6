"""What an expanded model has to compute: the source's own blocks in a loop."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import nn

from tests.models import TinyCase

Sources = Sequence[Sequence[int]]  # one list of source blocks per stage


def run_in_mapping_order(case: TinyCase, sources: Sources) -> torch.Tensor:
    """Logits of the unmodified blocks of ``case.model``, executed in the given order."""
    with torch.no_grad():
        return RUNNERS[case.architecture.family](case, sources)


def _run_vit(case: TinyCase, sources: Sources) -> torch.Tensor:
    model = case.model
    x = model.norm_pre(model._pos_embed(model.patch_embed(case.inputs["x"])))
    for source in sources[0]:
        x = model.blocks[source](x)
    return model.forward_head(model.norm(x))


def _run_swin(case: TinyCase, sources: Sources) -> torch.Tensor:
    model = case.model
    x = model.patch_embed(case.inputs["x"])
    for stage, order in zip(model.layers, sources, strict=True):
        x = stage.downsample(x)
        for source in order:
            x = stage.blocks[source](x)
    return model.forward_head(model.norm(x))


def _run_decoder(case: TinyCase, sources: Sources) -> torch.Tensor:
    decoder, config = case.model.model, case.model.config
    layers, depth, types = (
        decoder.layers,
        config.num_hidden_layers,
        config.__dict__.get("layer_types"),
    )
    try:
        decoder.layers = nn.ModuleList(layers[source] for source in sources[0])
        config.num_hidden_layers = len(sources[0])
        if types:
            config.layer_types = [types[source] for source in sources[0]]
        return case.model(**case.inputs).logits
    finally:
        decoder.layers, config.num_hidden_layers = layers, depth
        if types:
            config.layer_types = types


RUNNERS: Final[Mapping[str, Callable[[TinyCase, Sources], torch.Tensor]]] = {
    "vit": _run_vit,
    "swin": _run_swin,
    "llama": _run_decoder,
}
