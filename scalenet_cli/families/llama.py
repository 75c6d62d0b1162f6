"""Hugging Face decoders of the Llama kind, those with a list of layer types included."""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from scalenet_cli.errors import ArchitectureMismatch, CheckpointUnreadable, UnknownArchitecture
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import (
    Anatomy,
    OuterGroup,
    RandomInit,
    SourceRequest,
    StageRef,
    group_by_pattern,
    require_class,
)
from scalenet_cli.families.build_decoder import build_decoder
from scalenet_cli.families.decoder_configs import MODEL_TYPES, PER_LAYER_LISTS
from scalenet_cli.plan.layout import Layout

if TYPE_CHECKING:
    from torch import nn

    from scalenet_cli.families.sources.checkpoint import Checkpoint
    from scalenet_cli.families.sources.source import Source


_GROUPS: Final[tuple[tuple[str, OuterGroup], ...]] = (
    ("model.embed_tokens.*", "embeddings"),
    ("model.norm.*", "norms"),
    ("lm_head.*", "head"),
)


@final
class LlamaFamily:
    """One stage, ``model.layers``."""

    name = "llama"
    task = "causal-lm"
    input_unit: Final = "tokens"
    has_classifier = False
    takes_source_options = False

    def reads_config(self, config: Mapping[str, Any]) -> bool:
        """See Family. Any config but timm's, which names an architecture, is transformers'."""
        return "architecture" not in config

    def open_folder(
        self, folder: Path, config: Mapping[str, Any], request: SourceRequest
    ) -> "Source":
        """See Family."""
        from scalenet_cli.families.sources.decoder_folder import decoder_source

        return decoder_source(self.name, folder, config, request)

    def reads_tensors(self, keys: Collection[str]) -> bool:
        """See Family."""
        return "model.layers.0.self_attn.q_proj.weight" in keys

    def open_tensors(self, checkpoint: "Checkpoint", request: SourceRequest) -> "Source":
        """See Family. Without a config nothing can be said of a decoder."""
        raise UnknownArchitecture(
            "the tensors are a Hugging Face decoder's, but there is no config.json",
            where=checkpoint.where,
            hint="give the folder that holds config.json and the weights",
        )

    def require(self, model: object) -> None:
        """See Family. A class of our table, whatever its config says."""
        import transformers
        from transformers import PreTrainedModel

        require_class(model, PreTrainedModel, self.name)
        names = dict.fromkeys(kind.model_class for kind in MODEL_TYPES.values())
        if not isinstance(model, tuple(getattr(transformers, name) for name in names)):
            raise UnknownArchitecture(
                f"the family {self.name} describes {', '.join(names)}, and this is a "
                f"{type(model).__name__}",
                hint="load it as a language model, with AutoModelForCausalLM",
            )

    def build(self, architecture: Architecture) -> "nn.Module":
        """See Family."""
        return build_decoder(architecture)

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
        return group_by_pattern(key, _GROUPS)

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
                where=str(folder / "generation_config.json"),
                hint="mend that file in the source folder, and expand again",
            ) from None

    def save_with(self, model: Any, save: Callable[..., None]) -> None:
        """See Family. Trainer, and ``push_to_hub``, call it as well."""
        model.save_pretrained = save

    def image_preparation(self, model: Any) -> Mapping[str, Any]:
        """See Family. There are no images."""
        return {}

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
