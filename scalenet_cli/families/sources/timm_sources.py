"""Checkpoints of timm models: bare tensors, folders as timm writes them, and ``timm:NAME``."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scalenet_cli.errors import OptionError
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import SourceRequest
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.folder import has_weights, read_weights
from scalenet_cli.families.sources.hub import fetch_timm_weights
from scalenet_cli.families.sources.identify import identify_timm
from scalenet_cli.families.sources.random_weights import random_timm
from scalenet_cli.families.sources.read_checkpoint import read_checkpoint
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.sources.state_dicts import unwrap
from scalenet_cli.families.sources.timm_checkpoint import convert
from scalenet_cli.families.sources.timm_config import arguments_of, label_names_of
from scalenet_cli.families.timm_models import build_timm, known_family, preprocessing


def open_timm_tensors(checkpoint: Checkpoint, request: SourceRequest) -> Source:
    """A model whose prefix has been removed, identified by its tensors and the user's options."""
    architecture, model, notes = identify_timm(checkpoint, request.arch, request.arguments)
    source = convert(checkpoint, architecture, model)
    return replace(source, kind=checkpoint.kind, notes=(*checkpoint.notes, *notes))


def open_timm_folder(folder: Path, config: Mapping[str, Any], request: SourceRequest) -> Source:
    """A folder as timm's push_to_hf_hub writes it."""
    name, labels = request.arch or str(config["architecture"]), label_names_of(config)
    merged = {**arguments_of(config), **request.arguments}
    if request.random_seed is not None or not (request.weights or has_weights(folder)):
        named = open_timm_name(name, replace(request, arch=None, arguments=merged))
        return replace(named, label_names=labels)
    asked = replace(request, arch=name, arguments=merged)
    return replace(open_timm_tensors(unwrap(read_weights(folder)), asked), label_names=labels)


def open_timm_name(name: str, request: SourceRequest) -> Source:
    """The model that timm knows under a name, with its published weights or random ones."""
    reference = f"timm:{name}"
    if request.arch is not None:
        raise OptionError(f"{reference} names its architecture already; leave out --arch")
    architecture = Architecture(known_family(name), name, request.arguments)
    if not request.weights:
        shown = preprocessing(build_timm(architecture))
        return Source(architecture, {}, reference, "random", preprocessing=shown)
    if request.random_seed is not None:
        return replace(random_timm(architecture, request.random_seed), reference=reference)
    checkpoint = unwrap(read_checkpoint(fetch_timm_weights(name)))
    return replace(open_timm_tensors(checkpoint, replace(request, arch=name)), reference=reference)
