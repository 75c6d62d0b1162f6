"""One tiny random model per kind of family; built from arguments, no download."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn

from scalenet_cli.families import family
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import Family
from scalenet_cli.families.build_decoder import create_decoder
from scalenet_cli.families.timm_models import create_timm

_DECODER: Final = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_SLIDING: Final = {
    "layer_types": ["sliding_attention", "full_attention"],
    "sliding_window": 4,
    "use_sliding_window": True,
}
ARCHITECTURES: Final[Mapping[str, Architecture]] = {
    "vit": Architecture(
        "vit",
        "vit_tiny_patch16_224",
        {
            "img_size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 3,
            "num_heads": 2,
            "num_classes": 5,
        },
    ),
    "deit_distilled": Architecture(
        "vit",
        "deit_tiny_distilled_patch16_224",
        {
            "img_size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "num_classes": 5,
        },
    ),
    "vit_variant": Architecture(
        "vit",
        "vit_tiny_patch16_224",
        {
            "img_size": 16,
            "patch_size": 4,
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "num_classes": 5,
            "init_values": 0.1,
            "qk_norm": True,
            "reg_tokens": 2,
        },
    ),
    "swin": Architecture(
        "swin",
        "swin_tiny_patch4_window7_224",
        {
            "img_size": 32,
            "patch_size": 2,
            "embed_dim": 32,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
            "num_classes": 5,
        },
    ),
    "llama": Architecture("llama", "llama", {"model_type": "llama", **_DECODER}),
    "llama_tied": Architecture(
        "llama", "llama", {"model_type": "llama", "tie_word_embeddings": True, **_DECODER}
    ),
    "qwen3": Architecture("llama", "qwen3", {"model_type": "qwen3", **_DECODER, **_SLIDING}),
    "gemma3": Architecture(
        "llama",
        "gemma3_text",
        {"model_type": "gemma3_text", **_DECODER, **_SLIDING, "query_pre_attn_scalar": 8},
    ),
}


@dataclass(frozen=True)
class TinyCase:
    """A model with random weights and one batch of inputs."""

    name: str
    architecture: Architecture
    family: Family
    model: nn.Module
    inputs: dict[str, Any]

    def logits(self, model: nn.Module) -> torch.Tensor:
        """What a model answers to the inputs."""
        with torch.no_grad():
            return logits_of(model(**self.inputs))


def logits_of(output: Any) -> torch.Tensor:
    """timm returns a tensor, transformers an object."""
    return output if isinstance(output, torch.Tensor) else output.logits


def tiny_case(name: str) -> TinyCase:
    """The case of that name; every parameter, norms and zeros included, gets random values."""
    architecture = ARCHITECTURES[name]
    create = create_decoder if architecture.family == "llama" else create_timm
    torch.manual_seed(0)
    model = create(architecture)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return TinyCase(name, architecture, family(architecture.family), model, _inputs(architecture))


def _inputs(architecture: Architecture) -> dict[str, Any]:
    torch.manual_seed(1)
    if architecture.family == "llama":
        return {"input_ids": torch.randint(3, 64, (2, 11)), "use_cache": False}
    size = architecture.arguments["img_size"]
    return {"x": torch.randn(2, 3, size, size)}
