"""Hugging Face decoders of the Llama kind, those with a list of layer types included."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from scalenet_cli.errors import (
    ArchitectureMismatch,
    CheckpointUnreadable,
    MissingExtra,
    UnknownArchitecture,
)
from scalenet_cli.families.base import Anatomy, Architecture, OuterGroup, RandomInit, StageRef
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.schema import MAX_BLOCKS

if TYPE_CHECKING:
    from torch import nn


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
_GROUPS: Final[tuple[tuple[str, OuterGroup], ...]] = (
    ("model.embed_tokens.*", "embeddings"),
    ("model.norm.*", "norms"),
    ("lm_head.*", "head"),
)


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
        ArchitectureMismatch: a size that no model has, or a list that does not match the depth.
    """
    for key, limit in _LIMITS.items():
        value = config.get(key)
        if value is not None and not (type(value) is int and 0 < value <= limit):
            raise ArchitectureMismatch(
                f"{key} of the config is {str(value)[:60]}, not a whole number from 1 to {limit}"
            )
    depth = config.get("num_hidden_layers")
    for key in PER_LAYER_LISTS:
        values = config.get(key)
        if isinstance(values, list) and depth is not None and len(values) != depth:
            raise ArchitectureMismatch(
                f"num_hidden_layers of the config is {depth}, but {key} has length {len(values)}",
                hint="get the config.json that belongs to these weights: one entry per layer",
            )


def create_decoder(architecture: Architecture) -> "nn.Module":
    """The transformers model with its own initialisation, in the config's dtype.

    The class comes from our table: no code of a checkpoint is ever run.

    Raises:
        UnknownArchitecture: a model type that no family describes.
        ArchitectureMismatch: transformers refuses the config.
    """
    import torch

    try:
        import transformers
    except ModuleNotFoundError as error:
        raise MissingExtra(
            f"language models need the package {error.name}",
            hint="pip install 'scalenet-cli[language]'",
        ) from None
    from huggingface_hub.errors import StrictDataclassError

    kind = model_type(architecture.arguments)
    check_config(architecture.arguments)
    settings = {k: v for k, v in architecture.arguments.items() if k not in IGNORED_SETTINGS}
    try:
        config = getattr(transformers, kind.config_class).from_dict(settings)
        dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
        # Not model.to(dtype): transformers keeps some buffers, such as inv_freq, in float32.
        model: nn.Module = getattr(transformers, kind.model_class)._from_config(config, dtype=dtype)
    except (
        StrictDataclassError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        RuntimeError,
        ArithmeticError,
        AssertionError,
    ) as error:
        raise ArchitectureMismatch(
            f"transformers refuses the config: {' '.join(str(error).split())}",
            hint="get the config.json that belongs to these weights, or mend that entry",
        ) from None
    return model.eval()


def _empty_on_meta() -> AbstractContextManager[object]:
    """torch.empty takes no memory: accelerate alone would first ask for that of each Linear."""
    import torch
    from torch.overrides import TorchFunctionMode

    class EmptyOnMeta(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            options = {**(kwargs or {}), **({"device": "meta"} if func is torch.empty else {})}
            return func(*args, **options)

    return EmptyOnMeta()


@final
class LlamaFamily:
    """One stage, ``model.layers``."""

    name = "llama"
    task: Final = "language"

    def build(self, architecture: Architecture) -> "nn.Module":
        """See Family."""
        from accelerate import init_empty_weights

        with init_empty_weights(include_buffers=False), _empty_on_meta():
            model: Any = create_decoder(architecture)
        model.tie_weights()
        built: nn.Module = model
        return built

    def stages(self, model: Any) -> tuple[StageRef, ...]:
        """See Family."""
        return (StageRef("model.layers", len(model.model.layers), model.config.hidden_size),)

    def anatomy(self, block: Any) -> Anatomy:
        """See Family."""
        return MODEL_TYPES[block.self_attn.config.model_type].anatomy

    def prepare(self, block: Any) -> None:
        """See Family. Nothing to do: all tied tensors are in Linears."""

    def group(self, key: str) -> OuterGroup | None:
        """See Family. A tied head is the embedding's tensor, so it counts there."""
        return next((group for pattern, group in _GROUPS if fnmatchcase(key, pattern)), None)

    def shared_objects(self, model: Any) -> Sequence[object]:
        """The config: attention reads it, and repair() changes it once for all."""
        return (model.config,)

    def drop_path(self, rate: float) -> "nn.Module":
        """See Family. Never called: the anatomy has no drop paths."""
        raise NotImplementedError

    def default_drop_path(self, model: Any) -> float:
        """These models have no stochastic depth."""
        return 0.0

    def random_init(self, model: Any) -> RandomInit:
        """The config's range; Gemma's norms multiply by one plus their weight."""
        norm = 0.0 if model.config.model_type.startswith("gemma") else 1.0
        return RandomInit(std=float(model.config.initializer_range), norm=norm)

    def repair(self, model: Any, layout: Layout) -> None:
        """Cache slots, and every list of the config with one entry per layer."""
        (stage,) = layout.stages
        config = model.config
        for name in PER_LAYER_LISTS:
            values = vars(config).get(name)
            if values is not None:
                setattr(config, name, [values[instance.source] for instance in stage.instances])
        config.num_hidden_layers = len(stage.instances)
        for instance, block in zip(stage.instances, model.model.layers, strict=True):
            # HF picks the KV-cache slot by layer_idx, so instances may not share it.
            for module in block.modules():
                if "layer_idx" in vars(module):
                    module.layer_idx = instance.position

    def replace_head(self, model: Any, num_classes: int) -> None:
        """The head of a decoder is its vocabulary."""
        raise ArchitectureMismatch("a language model has no classifier that could be replaced")

    def checkpoint_gradients(self, model: Any) -> None:
        """See Family."""
        import warnings

        with warnings.catch_warnings():
            # Later 5.x versions call it activation_checkpointing_enable, which 5.11 has not.
            warnings.simplefilter("ignore", FutureWarning)
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def finish(self, model: Any, folder: Path, files: Collection[str]) -> None:
        """The generation config that the source came with."""
        from transformers import GenerationConfig

        if "generation_config.json" not in files:
            return
        try:
            model.generation_config = GenerationConfig.from_pretrained(folder)
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            raise CheckpointUnreadable(
                f"generation_config.json cannot be used: {error}",
                where=str(folder),
                hint="mend that file in the source folder, and expand again",
            ) from None

    def default_input_size(self, model: Any) -> int:
        """512 tokens, or the context where that is shorter."""
        return min(512, int(model.config.max_position_embeddings))

    def example_inputs(self, model: Any, size: int, device: str) -> dict[str, Any]:
        """One sequence of ``size`` tokens."""
        import torch

        tokens = torch.zeros(1, size, dtype=torch.long, device=device)
        # With a cache transformers does not look for packed sequences, which needs real values.
        return {"input_ids": tokens, "use_cache": True}


LLAMA: Final = LlamaFamily()
