"""What is known of the configs of Hugging Face decoders; plain data, without their library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scalenet_cli.errors import ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families.base import Anatomy
from scalenet_cli.plan.schema import MAX_BLOCKS


@dataclass(frozen=True, slots=True)
class ModelType:
    """What differs between the config's ``model_type`` values."""

    config_class: str
    model_class: str
    anatomy: Anatomy


_PRE_NORM: Final = Anatomy(
    attention=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"),
    mlp=("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    closing=("self_attn.o_proj", "mlp.down_proj"),
    norms=("input_layernorm", "post_attention_layernorm"),
)
_HEAD_NORMS: Final = ("self_attn.q_norm", "self_attn.k_norm")


def _with_norms(*norms: str, norm_after_closing: bool = False) -> Anatomy:
    return Anatomy(
        attention=_PRE_NORM.attention,
        mlp=_PRE_NORM.mlp,
        closing=_PRE_NORM.closing,
        norms=(*_PRE_NORM.norms, *norms),
        norm_after_closing=norm_after_closing,
    )


_SANDWICH: Final = ("pre_feedforward_layernorm", "post_feedforward_layernorm")
# Entries with one value per layer. The cache reads them even where the layers ignore them (Llama).
PER_LAYER_LISTS: Final = ("layer_types",)
_SLIDING: Final = "sliding_attention"
_ATTENTION: Final = ("full_attention", _SLIDING)

MODEL_TYPES: Final[Mapping[str, ModelType]] = {
    "llama": ModelType("LlamaConfig", "LlamaForCausalLM", _PRE_NORM),
    "mistral": ModelType("MistralConfig", "MistralForCausalLM", _PRE_NORM),
    "qwen2": ModelType("Qwen2Config", "Qwen2ForCausalLM", _PRE_NORM),
    "qwen3": ModelType("Qwen3Config", "Qwen3ForCausalLM", _with_norms(*_HEAD_NORMS)),
    "gemma2": ModelType(
        "Gemma2Config", "Gemma2ForCausalLM", _with_norms(*_SANDWICH, norm_after_closing=True)
    ),
    "gemma3_text": ModelType(
        "Gemma3TextConfig",
        "Gemma3ForCausalLM",
        _with_norms(*_SANDWICH, *_HEAD_NORMS, norm_after_closing=True),
    ),
}

# Config entries that make transformers fetch or run code which is not its own, or cost memory.
IGNORED_SETTINGS: Final = (
    "auto_map",
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "experts_implementation",
    "_experts_implementation",
    # transformers would make a table with one entry per label; a decoder has no labels.
    "num_labels",
    "id2label",
    "label2id",
)
# Buffers that old versions of transformers wrote beside the weights.
DERIVED: Final = ("*.rotary_emb.inv_freq", "*.self_attn.bias", "*.self_attn.masked_bias")


def model_type(config: Mapping[str, Any]) -> ModelType:
    """What we know about a config.

    Raises:
        UnknownArchitecture: a model type that no family describes.
    """
    name = config.get("model_type")
    if not isinstance(name, str) or name not in MODEL_TYPES:
        raise UnknownArchitecture(
            f"config.json names the model type {name!r}",
            hint=f"supported model types: {', '.join(MODEL_TYPES)}",
        )
    return MODEL_TYPES[name]


# Largest sizes that are believed; all of them have to be at least 1.
_LIMITS: Final[Mapping[str, int]] = {
    "num_hidden_layers": MAX_BLOCKS,
    "hidden_size": 2**17,
    "intermediate_size": 2**20,
    "vocab_size": 2**24,
    "num_attention_heads": 2**12,
    "num_key_value_heads": 2**12,
    "head_dim": 2**14,
    "max_position_embeddings": 2**28,
    "sliding_window": 2**28,
}


def check_config(config: Mapping[str, Any]) -> None:
    """Checked before building: transformers makes a module per layer, however many are asked for.

    Raises:
        ArchitectureMismatch: a size that no model has, no depth, or a list that does not match it.
    """
    for key, limit in _LIMITS.items():
        value = config.get(key)
        if value is not None and not (type(value) is int and 0 < value <= limit):
            raise ArchitectureMismatch(
                f"{key} of the config is {repr(value)[:60]}, not a whole number from 1 to {limit}"
            )
    depth = config.get("num_hidden_layers")
    if depth is None:  # transformers would take its own default, such as 32
        raise ArchitectureMismatch(
            "the config has no num_hidden_layers",
            hint="get the config.json that belongs to these weights: it says how deep they are",
        )
    for key in PER_LAYER_LISTS:
        values = config.get(key)
        if isinstance(values, list) and len(values) != depth:
            raise ArchitectureMismatch(
                f"num_hidden_layers of the config is {depth}, but {key} has length {len(values)}",
                hint="get the config.json that belongs to these weights: one entry per layer",
            )


def check_layer_types(layer_types: object, sliding_window: int | None) -> None:
    """Checked of what transformers made of a config: its cache would fail much later.

    Both are the values after transformers' defaults, which differ between the model types.

    Raises:
        ArchitectureMismatch: a kind of attention that no supported model has, or no window for it.
    """
    if not isinstance(layer_types, list):
        return
    other = next((name for name in layer_types if name not in _ATTENTION), None)
    if other is not None:
        raise ArchitectureMismatch(
            f"layer_types of the config has {other!r}, but these models have only "
            f"{' and '.join(_ATTENTION)}",
            hint="get the config.json that belongs to these weights",
        )
    if _SLIDING in layer_types and sliding_window is None:
        raise ArchitectureMismatch(
            f"layer_types of the config has {_SLIDING!r}, but there is no sliding_window",
            hint="get the config.json that belongs to these weights: a number of tokens, and of "
            'Qwen\'s "use_sliding_window": true',
        )
