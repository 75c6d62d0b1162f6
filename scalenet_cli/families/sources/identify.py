"""Which timm architecture a checkpoint is."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from scalenet_cli.errors import AmbiguousArchitecture, ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families import families_from_the_end
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import Family
from scalenet_cli.families.sources.candidates import Candidate, choose, fitting_candidates
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry
from scalenet_cli.families.sources.lookalikes import SUPPORTED, refuse_lookalike, refuse_unknown
from scalenet_cli.families.sources.timm_checkpoint import find_mismatch
from scalenet_cli.families.sources.training_options import read_options
from scalenet_cli.families.timm_models import TimmKind, build_timm, known_family

Identified = tuple[Architecture, nn.Module, tuple[str, ...]]


def identify_timm(
    checkpoint: Checkpoint, arch: str | None, arguments: Mapping[str, Any]
) -> Identified:
    """The architecture of a checkpoint, its model without weights, and notes for the user.

    ``arch`` and ``arguments`` win; then what the training script wrote into the file; shapes decide
    what they can, and the file's own name between architectures of the same shapes.

    Raises:
        UnknownArchitecture: keys of no supported family.
        AmbiguousArchitecture: the heads cannot be known.
        ArchitectureMismatch: the named architecture and the tensors disagree.
    """
    geometry = _geometry(checkpoint)
    stated = read_options(checkpoint, geometry, arch, arguments)
    given = {**stated.arguments, **arguments}
    if stated.name is not None:
        found = _named(checkpoint, geometry, stated.name, given)
    else:
        found = _unnamed(checkpoint, geometry, given)
    architecture, model, notes = found
    if not geometry.head["num_classes"] and "num_classes" not in given:
        notes += ("there is no head.weight: the model gives features, and has no classes",)
    return architecture, model, (*stated.notes, *notes)


def family_of_tensors(checkpoint: Checkpoint) -> Family:
    """The family that reads the keys of a checkpoint.

    Raises:
        UnknownArchitecture: none does.
    """
    keys = checkpoint.tensors.keys()
    found = next((one for one in families_from_the_end() if one.reads_tensors(keys)), None)
    return found or refuse_unknown(checkpoint)


def _geometry(checkpoint: Checkpoint) -> Geometry:
    family = family_of_tensors(checkpoint)
    if not isinstance(family, TimmKind):
        raise ArchitectureMismatch(
            f"the tensors are of a {family.name} model, which is none of timm's",
            where=checkpoint.where,
        )
    # The keys of a timm family are also those of kinds that it does not build, such as SAM's ViT.
    refuse_lookalike(checkpoint)
    return family.checkpoints.geometry(checkpoint)


def _named(
    checkpoint: Checkpoint, geometry: Geometry, name: str, arguments: Mapping[str, Any]
) -> Identified:
    family = known_family(name)
    if family != geometry.family:
        raise ArchitectureMismatch(
            f"{name} is a {family} model, but the tensors are a {geometry.family} model's",
            where=checkpoint.where,
        )
    architecture = Architecture(family, name, {**geometry.head, **arguments})
    model = build_timm(architecture)
    if find_mismatch(checkpoint, architecture, model) is None:
        return architecture, model, ()
    if "num_heads" in arguments or (geometry.heads_known and arguments):
        # Whoever states the heads states a model of their own; the shapes give the rest.
        architecture = Architecture(family, name, {**geometry.arguments, **arguments})
        model = build_timm(architecture)
    problem = find_mismatch(checkpoint, architecture, model)
    if problem is not None:
        raise problem
    return architecture, model, ()


def _unnamed(
    checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]
) -> Identified:
    if geometry.heads_known or "num_heads" not in arguments:
        fitting = fitting_candidates(checkpoint, geometry, arguments)
        if fitting:
            chosen, notes = choose(checkpoint, fitting)
            return chosen.architecture, chosen.model, notes
    return _generic(checkpoint, geometry, arguments)


def _generic(
    checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]
) -> Identified:
    """A geometry that timm has no name for: its family's general class with arguments."""
    _require_size(checkpoint, geometry, arguments)
    name = geometry.generic
    merged = {**geometry.arguments, **arguments}
    if not geometry.heads_known and "num_heads" not in arguments:
        # Whatever the number is, the tensors are the same; if they differ, it would not help.
        found = _fit(checkpoint, Architecture(geometry.family, name, {**merged, "num_heads": 1}))
        raise _unknown_heads(checkpoint, geometry, found)
    fitted = _fit(checkpoint, Architecture(geometry.family, name, merged))
    assumed = (*geometry.assumed, "norm_eps", "mean", "std")
    assumed = tuple(key for key in assumed if key not in arguments)
    note = f"not in timm's registry ({geometry.summary}): built from its shapes"
    if assumed:
        shown = [f"{key} {merged[key]}" if key in geometry.assumed else key for key in assumed]
        note += f"; assumed, as timm's defaults are: {', '.join(shown)}"
    return fitted.architecture, fitted.model, (note,)


def _fit(checkpoint: Checkpoint, architecture: Architecture) -> Candidate:
    model = build_timm(architecture)
    problem = find_mismatch(checkpoint, architecture, model)
    if problem is not None:
        raise problem
    return Candidate(architecture, model)


def _require_size(checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]) -> None:
    """The image size is known.

    Raises:
        UnknownArchitecture: the model has positions that no supported family has.
        AmbiguousArchitecture: the patches are no square.
    """
    if "img_size" in {**geometry.arguments, **arguments}:
        return
    if geometry.arguments.get("pos_embed") == "none":
        raise UnknownArchitecture(
            "the tensors are a ViT's, but there is no pos_embed: its positions are rotary or "
            "relative, as in DINOv3, EVA or BEiT",
            where=checkpoint.where,
            hint=SUPPORTED,
        )
    raise AmbiguousArchitecture(
        f"no architecture of timm has these shapes ({geometry.summary}), and the positions in "
        "pos_embed are no square",
        where=checkpoint.where,
        hint="say what images it takes, for example --model-kwargs img_size=256,128, and num_heads",
    )


def _unknown_heads(
    checkpoint: Checkpoint, geometry: Geometry, fitted: Candidate
) -> AmbiguousArchitecture:
    width = int(fitted.architecture.arguments["embed_dim"])
    possible = [heads for heads in range(1, width + 1) if width % heads == 0]
    return AmbiguousArchitecture(
        f"no architecture of timm has these shapes ({geometry.summary}), and shapes do not "
        f"show the number of heads: {', '.join(map(str, possible))} would fit",
        where=checkpoint.where,
        hint="give the number that it was trained with: --model-kwargs num_heads=N (most ViTs have "
        "one per 64 of embed_dim); norm_eps, mean and std are timm's defaults unless "
        "--model-kwargs gives them too",
    )
