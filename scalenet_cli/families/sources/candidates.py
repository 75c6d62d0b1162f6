"""The choice between timm architectures whose tensors have the same names and shapes."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry
from scalenet_cli.families.sources.timm_checkpoint import find_mismatch
from scalenet_cli.families.timm_models import build_timm, preprocessing, timm_family

_SUFFIXES: Final = (".pth", ".pt", ".bin", ".tar", ".ckpt", ".safetensors", ".pkl")


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture that fits, and its model without weights."""

    architecture: Architecture
    model: nn.Module

    @property
    def name(self) -> str:
        """Its name in timm."""
        return self.architecture.name

    def facts(self) -> dict[str, Any]:
        """Everything about the model that its tensors' shapes do not show, by what it is called."""
        model: Any = self.model
        stages = timm_family(self.architecture.family).stages(model)
        blocks = [block for stage in stages for block in model.get_submodule(stage.path)]
        norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
        return {
            "num_heads": [block.attn.num_heads for block in blocks],
            "norm_eps": sorted({norm.eps for norm in norms}),
            "activation": sorted({type(block.mlp.act).__name__ for block in blocks}),
            "global_pool": model.global_pool,
            **preprocessing(model),
            # Whatever the names above leave out.
            "structure": repr(model),
        }


def fitting_candidates(
    checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]
) -> list[Candidate]:
    """Every architecture of timm's registry whose tensors have these names and shapes."""
    known = timm_family(geometry.family).checkpoints
    names = sorted({*known.names()})
    start = _first_blocks(checkpoint)
    fitting = []
    for name in names:
        config = timm.get_pretrained_cfg(name, allow_unregistered=True)
        if config is None or not _may_be(geometry, name, config.input_size):
            continue
        architecture = Architecture(geometry.family, name, {**geometry.head, **arguments})
        # A block per stage is built in a tenth of the time, and shows nearly every difference.
        shallow = {**architecture.arguments, **known.shallow}
        first = replace(architecture, arguments=shallow)
        if find_mismatch(start, first, build_timm(first)) is not None:
            continue
        model = build_timm(architecture)
        if find_mismatch(checkpoint, architecture, model) is None:
            fitting.append(Candidate(architecture, model))
    return fitting


def _may_be(geometry: Geometry, name: str, input_size: Sequence[int]) -> bool:
    """A cheap test on an architecture, before it is built and compared."""
    patch = re.search(r"patch(\d+)", name)
    if patch is not None and int(patch.group(1)) != geometry.arguments["patch_size"]:
        return False
    return timm_family(geometry.family).checkpoints.may_be(geometry, name, input_size)


def _first_blocks(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint without all but the first block of each stage."""
    later = re.compile(r"(layers\.\d+\.)?blocks\.[1-9]\d*\.")
    kept = {key: tensor for key, tensor in checkpoint.tensors.items() if not later.match(key)}
    return replace(checkpoint, tensors=kept)


def choose(
    checkpoint: Checkpoint, fitting: Sequence[Candidate]
) -> tuple[Candidate, tuple[str, ...]]:
    """The candidate that is meant, and what the user should hear of the others.

    Candidates that compute and prepare images alike are one. Between others, the file's own name
    decides; then its form; then the one that prepares images with ImageNet's mean and std, as most
    training scripts do, and has the shortest name.
    """
    name = file_name(checkpoint)
    named = named_by(name, fitting)
    if named is not None:
        tagged = _tagged(checkpoint, name, named)
        if len(_meanings([tagged, *fitting])) > 1:
            others = _others(tagged, fitting)
            return tagged, (f"read as {tagged.name}, as the file's name says; {others}",)
    if len(_meanings(fitting)) == 1:
        return fitting[0], ()
    # The official DeiT and Swin releases are {'model': ...} and nothing else.
    official = [one for one in fitting if _is_official(one.name)]
    bare = checkpoint.wrapper == ("model",) and not checkpoint.beside
    if bare and len(_meanings(official)) == 1:
        taken = official[0]
        why = "whose authors publish {'model': ...} files"
        return taken, (f"read as {taken.name}, {why}; {_others(taken, fitting)}",)
    taken = min(fitting, key=_preference)
    return taken, (
        f"THIS IS A GUESS: {len(fitting)} architectures have these shapes, and neither the file "
        f"nor its name says which it is; read as {taken.name}; {_others(taken, fitting)}",
    )


def file_name(checkpoint: Checkpoint) -> str:
    """The file's own name in lower case, without the suffixes of its format."""
    name = Path(checkpoint.where).name.lower()
    while suffix := next((s for s in _SUFFIXES if name.endswith(s)), None):
        name = name.removesuffix(suffix)
    return name


def named_by(name: str, fitting: Sequence[Candidate]) -> Candidate | None:
    """The one candidate that a file's name names: whole, or by the words that set it apart.

    A whole name wins, the longest first. Otherwise each word that not all candidates have counts:
    ``deit_base`` is DeiT-B among ``deit_base_patch16_224`` and ``vit_base_patch16_224``. Names that
    say nothing, or of several candidates, name none.
    """
    words = _words(name)
    whole = [one for one in fitting if _holds(words, _words(one.name))]
    if whole:
        longest = max(whole, key=lambda one: len(one.name))
        inside = all(set(_words(one.name)) <= set(_words(longest.name)) for one in whole)
        return longest if inside else None
    sets = {one.name: set(_words(one.name)) for one in fitting}
    common = set.intersection(*sets.values())
    apart = {key: found - common for key, found in sets.items()}
    matching = [one for one in fitting if apart[one.name] and apart[one.name] <= set(words)]
    mentioned = set(words) & set().union(*apart.values())
    exact = [one for one in matching if apart[one.name] == mentioned]
    return exact[0] if len(exact) == 1 else None


def _tagged(checkpoint: Checkpoint, name: str, named: Candidate) -> Candidate:
    """The candidate with timm's tag of its weights, where the name has one and it matters."""
    found = re.search(rf"{re.escape(named.name)}\.([a-z0-9_]+)", name)
    if found is None:
        return named
    try:
        timm.get_pretrained_cfg(found.group(0), allow_unregistered=False)
    except RuntimeError:  # no such tag
        return named
    architecture = replace(named.architecture, name=found.group(0))
    tagged = Candidate(architecture, build_timm(architecture))
    fits = find_mismatch(checkpoint, architecture, tagged.model) is None
    return tagged if fits and tagged.facts() != named.facts() else named


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", name) if word]


def _holds(words: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the wanted words stand in a row."""
    return any(
        list(words[at : at + len(wanted)]) == list(wanted)
        for at in range(len(words) - len(wanted) + 1)
    )


def _meanings(fitting: Sequence[Candidate]) -> set[str]:
    return {repr(sorted(one.facts().items())) for one in fitting}


def _preference(candidate: Candidate) -> tuple[bool, int, str]:
    shown = preprocessing(candidate.model)
    usual = (tuple(IMAGENET_DEFAULT_MEAN), tuple(IMAGENET_DEFAULT_STD))
    unusual = (tuple(shown.get("mean", ())), tuple(shown.get("std", ()))) != usual
    return unusual, len(candidate.name), candidate.name


def _others(taken: Candidate, fitting: Sequence[Candidate]) -> str:
    """What each other candidate would change, and how to get it."""
    own = taken.facts()
    told = []
    for other in fitting:
        facts = other.facts()
        changed = [key for key in facts if key != "structure" and facts[key] != own.get(key)]
        if changed or facts != own:
            shown = ", ".join(f"{key} {_shown(facts[key])}" for key in changed)
            told.append(f"{other.name} would change {shown or 'how it computes'}")
    return f"{'; '.join(told)}; --arch chooses"


def _shown(value: Any) -> str:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return str(values[0]) if len({*values}) == 1 else "/".join(map(str, values))


def _is_official(name: str) -> bool:
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return config is not None and str(config.url or "").endswith(".pth")
