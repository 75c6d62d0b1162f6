"""Folders of transformers' decoders: their config, and what is special about their tensors."""

from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import (
    ArchitectureMismatch,
    CheckpointError,
    OptionError,
    UnsupportedTensor,
)
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import SourceRequest
from scalenet_cli.families.decoder_configs import (
    DERIVED,
    IGNORED_SETTINGS,
    check_config,
    model_type,
)
from scalenet_cli.families.sources.carried import carried_files
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.folder import has_weights, read_weights
from scalenet_cli.families.sources.random_weights import random_decoder
from scalenet_cli.families.sources.safetensors_file import SafetensorsFile
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.sources.tensors import FLOATS, SourceTensor
from scalenet_cli.families.sources.tokenizer_files import tokenizer_notes

_EMBEDDING: Final = "model.embed_tokens.weight"
_HEAD: Final = "lm_head.weight"


def decoder_architecture(family: str, config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of a transformers config.

    Raises:
        UnknownArchitecture: a model type that no family describes.
        UnsupportedTensor: a quantised model.
        ArchitectureMismatch: sizes that no model has, lists that do not match the depth.
    """
    try:
        model_type(config)
        check_config(config)
    except CheckpointError as error:
        error.where = where
        raise
    for key in ("quantization_config", "compression_config"):
        if config.get(key):
            raise UnsupportedTensor(
                f"the model is quantised ({_method(config[key])}), so its Linears cannot be tied "
                "and adapted",
                where=where,
                hint="use the checkpoint it was quantised from; or dequantise it with "
                "transformers, AutoModelForCausalLM.from_pretrained(FOLDER).dequantize() where its "
                "method allows that, and expand what save_pretrained writes",
            )
    arguments = {key: value for key, value in config.items() if key not in IGNORED_SETTINGS}
    return Architecture(family, str(config["model_type"]), arguments)


def _method(quantisation: Any) -> str:
    named = quantisation.get("quant_method") if isinstance(quantisation, dict) else quantisation
    return str(named)[:40]


def decoder_source(
    family: str, folder: Path, config: Mapping[str, Any], request: SourceRequest
) -> Source:
    """A transformers decoder. Its keys are the model's own, so its files can be copied whole.

    Raises:
        OptionError: options that the config has no use for.
    """
    if request.arch or request.arguments:
        raise OptionError(
            "--arch and --model-kwargs are for timm models; config.json describes this one",
            where=str(folder),
        )
    architecture = decoder_architecture(family, config, str(folder / "config.json"))
    if request.random_seed is not None:
        drawn = random_decoder(architecture, request.random_seed)
        return replace(drawn, carried=carried_files(folder))
    if not request.weights and not has_weights(folder):
        return Source(architecture, {}, carried=carried_files(folder))
    return _read(architecture, folder, config)


def _read(architecture: Architecture, folder: Path, config: Mapping[str, Any]) -> Source:
    checkpoint = read_weights(folder)
    dropped = tuple(
        key for key in checkpoint.tensors if any(fnmatchcase(key, name) for name in DERIVED)
    )
    duplicates = _repeated_head(checkpoint, config)
    renamed = _lone_head(checkpoint, config)
    ours = {theirs: key for key, theirs in renamed.items()}
    tensors = {
        ours.get(key, key): tensor
        for key, tensor in checkpoint.tensors.items()
        if key not in dropped and key not in duplicates
    }
    _refuse_integers(tensors, str(folder))
    num_embeddings = _check_vocabulary(tensors, config, str(folder / "config.json"))
    return Source(
        architecture=architecture,
        tensors=tensors,
        kind=checkpoint.kind,
        renamed=renamed,
        dropped=dropped,
        duplicates=duplicates,
        verbatim=_whole(checkpoint, tensors),
        carried=carried_files(folder),
        notes=tokenizer_notes(folder, num_embeddings),
    )


def _refuse_integers(tensors: Mapping[str, SourceTensor], where: str) -> None:
    integral = next((key for key, t in tensors.items() if t.spec.dtype not in FLOATS), None)
    if integral:
        raise UnsupportedTensor(
            f"{integral} has the type {tensors[integral].spec.dtype}",
            where=where,
            hint="quantised weights cannot be scaled: use the checkpoint they were made from",
        )


def _check_vocabulary(
    tensors: Mapping[str, SourceTensor], config: Mapping[str, Any], where: str
) -> int | None:
    """The rows of the embedding, which are as many as the config says.

    Raises:
        ArchitectureMismatch: they are not.
    """
    shape = tensors[_EMBEDDING].spec.shape if _EMBEDDING in tensors else ()
    stated = config.get("vocab_size")
    if len(shape) == 2 and stated is not None and stated != shape[0]:
        raise ArchitectureMismatch(
            f"vocab_size of the config is {stated}, but the embedding has {shape[0]} rows",
            where=where,
            hint=f'set "vocab_size": {shape[0]} if tokens were added to the model or taken away, '
            "or get the config.json that belongs to these weights",
        )
    return shape[0] if shape else None


def _whole(
    checkpoint: Checkpoint, tensors: Mapping[str, SourceTensor]
) -> tuple[SafetensorsFile, ...]:
    # Shards may be pickles beside safetensors files: what is copied has to be all there is.
    in_files = [key for file in checkpoint.files for key in file.tensors]
    return checkpoint.files if sorted(in_files) == sorted(tensors) else ()


def _is_tied(config: Mapping[str, Any]) -> bool:
    return bool(config.get("tie_word_embeddings", str(config["model_type"]).startswith("gemma")))


def _lone_head(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, str]:
    """The one tensor of a tied pair, where it was written under the head's name."""
    present = _HEAD in checkpoint.tensors and _EMBEDDING not in checkpoint.tensors
    return {_EMBEDDING: _HEAD} if present and _is_tied(config) else {}


def _repeated_head(checkpoint: Checkpoint, config: Mapping[str, Any]) -> dict[str, str]:
    """A tied head that was written beside the embedding although it is the same tensor."""
    tensors = checkpoint.tensors
    if not _is_tied(config) or _HEAD not in tensors or _EMBEDDING not in tensors:
        return {}
    same = tensors[_HEAD].spec == tensors[_EMBEDDING].spec and all(
        bytes(one) == bytes(other)
        for one, other in zip(tensors[_HEAD].chunks(), tensors[_EMBEDDING].chunks(), strict=True)
    )
    if not same:
        raise ArchitectureMismatch(
            "config.json ties the head to the embedding, but the weights hold two tensors",
            where=checkpoint.where,
            hint='set "tie_word_embeddings": false in config.json if the head is its own',
        )
    return {_HEAD: _EMBEDDING}
