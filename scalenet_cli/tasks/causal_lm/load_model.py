"""Language models with weights and tokenizer, from a bundle, a run or a plain checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from torch import nn

from scalenet_cli.bundle.read import Bundle, bundle_folder, is_bundle
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.errors import OptionError
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Family
from scalenet_cli.families.sources import HUB, open_source
from scalenet_cli.models.describe import build_base, refuse_source_options, stage_shapes
from scalenet_cli.models.load import load_bundle
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.resolve import plain_layout
from scalenet_cli.surgery.assign import set_parameters
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


def open_language_model(
    target: str,
    options: SourceOptions | None = None,
    *,
    tokenizer: str | None = None,
    precision: Literal["fp32", "bf16", "fp16"] | None = None,
) -> OpenedLanguageModel:
    """The model of a bundle, of a run (its best), of a Hugging Face folder or of ``hf:REPO``.

    A bundle's tensors are mapped, not read. ``tokenizer`` is a folder, by default the target's;
    ``precision`` converts the tensors.

    Raises:
        ScalenetError: the target cannot be used, is no language model, or has no tokenizer of its
            vocabulary.
    """
    options = options or SourceOptions()
    folder = bundle_folder(Path(target))
    if is_bundle(folder):
        refuse_source_options(str(folder), options)
        opened, place = read_steadily(folder, lambda bundle: _bundle(bundle, tokenizer))
    else:
        opened, place = _source(target, options, tokenizer)
    check_vocabulary(opened.tokenizer, opened.num_embeddings, place)
    if precision is not None:
        convert_parameters(opened.model, DTYPES[precision])
    opened.model.eval().requires_grad_(False)
    return opened


def _bundle(bundle: Bundle, tokenizer: str | None) -> tuple[OpenedLanguageModel, str]:
    _require_language(bundle.manifest.source.family, str(bundle.folder))
    # Before the weights are read: a tokenizer is missing more often.
    words, place = _tokenizer(tokenizer, bundle.folder)
    loaded = load_bundle(bundle.folder)
    trained = bundle.manifest.trained
    opened = OpenedLanguageModel(
        loaded.model,
        words,
        loaded.family,
        bundle.manifest.source.architecture,
        loaded.layout,
        template=trained.template if trained else None,
    )
    return opened, place


def convert_parameters(model: nn.Module, dtype: torch.dtype) -> None:
    """All parameters get a type, in place, so that ties hold.

    Buffers keep theirs: transformers wants the frequencies of positions in float32.
    """
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def _source(
    target: str, options: SourceOptions, tokenizer: str | None
) -> tuple[OpenedLanguageModel, str]:
    source = open_source(
        target, arch=options.arch, arguments=options.model_kwargs, random_seed=options.random_seed
    )
    architecture = source.architecture
    _require_language(architecture.family, target)
    folder = _folder(target, weights=True)
    words, place = _tokenizer(tokenizer, folder)
    family = find_family(architecture.family)
    model = build_base(architecture, family, source, target)
    set_parameters(model, {key: tensor.read() for key, tensor in source.tensors.items()})
    family.finish(model, folder, [path.name for path in source.carried])
    layout = plain_layout(stage_shapes(family, model))
    return OpenedLanguageModel(model, words, family, architecture.name, layout, source.notes), place


def tokenizer_folder(target: str, chosen: str | None) -> Path:
    """Where a tokenizer is: in the folder that was chosen, or in the checkpoint's.

    Of ``hf:REPO`` only the small files are downloaded.
    """
    return _folder(target, weights=False) if chosen is None else Path(chosen)


def _folder(target: str, *, weights: bool) -> Path:
    """The folder of a checkpoint; of ``hf:REPO``, that of what is downloaded."""
    if not target.startswith(HUB):
        return Path(target)
    from scalenet_cli.families.sources.hub import fetch_repository

    return fetch_repository(target.removeprefix(HUB), weights=weights)


def _tokenizer(chosen: str | None, folder: Path) -> tuple[Any, str]:
    place = folder if chosen is None else Path(chosen)
    return load_tokenizer(place), str(place)


def _require_language(family: str, where: str) -> None:
    if find_family(family).task != "language":
        raise OptionError(f"a model of the family {family} is no language model", where=where)
