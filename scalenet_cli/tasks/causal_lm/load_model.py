"""Language models with weights and tokenizer."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.models.load import load_target
from scalenet_cli.models.target import Target
from scalenet_cli.plan.layout import Layout
from scalenet_cli.tasks.causal_lm import NAME
from scalenet_cli.tasks.causal_lm.data.templates import Chosen
from scalenet_cli.tasks.causal_lm.data.tokenizers import check_vocabulary, load_tokenizer

DTYPES: Final = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, slots=True)
class OpenedLanguageModel:
    """A model with weights, in evaluation mode, and its tokenizer.

    Its tensors have the types they are stored in, unless others were asked for. ``template`` wrote
    what it was trained on, where that is known.
    """

    model: Any
    tokenizer: Any
    family: Family
    architecture: str
    layout: Layout
    notes: tuple[str, ...] = ()
    template: Chosen | None = None

    @property
    def num_positions(self) -> int:
        """The longest sequence that the model is made for, in tokens."""
        return int(self.model.config.max_position_embeddings)

    @property
    def num_embeddings(self) -> int:
        """Rows of the embedding: the tokens that the model knows."""
        return len(self.model.get_input_embeddings().weight)


def load_language_model(
    target: Target,
    *,
    tokenizer: str | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
) -> OpenedLanguageModel:
    """The model of a target, and its tokenizer.

    A bundle's tensors are mapped, not read. ``tokenizer`` is a folder, by default the target's;
    ``precision`` converts the tensors.

    Raises:
        ScalenetError: its weights cannot be used, or it has no tokenizer of its vocabulary.
    """
    if target.family.task != NAME:
        raise OptionError(
            f"a model of the family {target.family.name} is no language model",
            where=target.reference,
        )
    # Before the weights are read: a tokenizer is missing more often.
    place = target.files_folder() if tokenizer is None else Path(tokenizer)
    words = load_tokenizer(place)
    loaded = load_target(target)
    trained = None if target.manifest is None else target.manifest.trained
    opened = OpenedLanguageModel(
        model=loaded.model,
        tokenizer=words,
        family=loaded.family,
        architecture=loaded.architecture.name,
        layout=loaded.layout,
        notes=target.notes,
        template=trained.template if trained else None,
    )
    check_vocabulary(opened.tokenizer, opened.num_embeddings, str(place))
    if precision is not None:
        convert_parameters(opened.model, DTYPES[precision])
    opened.model.eval().requires_grad_(False)
    return opened


def convert_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """All parameters get a type, in place, so that ties hold.

    Buffers keep theirs: transformers wants the frequencies of positions in float32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
