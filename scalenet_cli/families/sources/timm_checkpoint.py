"""The tensors of a checkpoint under timm's keys, and whether an architecture fits them."""

import warnings

import torch
from torch import nn

from scalenet_cli.errors import ArchitectureMismatch, UnsupportedTensor
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.source import Source, check_tensors
from scalenet_cli.families.sources.tensors import FLOATS, TORCH_NAMES, SourceTensor
from scalenet_cli.families.timm_models import preprocessing, timm_family


def convert(checkpoint: Checkpoint, architecture: Architecture, model: nn.Module) -> Source:
    """The checkpoint's tensors under timm's keys, as timm's own filter renames them.

    Raises:
        ArchitectureMismatch: tensors are missing, unexpected or of another shape.
        UnsupportedTensor: weights that are not floating point.
    """
    tensors, renamed, dropped = _rename(checkpoint, architecture.family, model)
    check_tensors(model, tensors, checkpoint.where)
    integral = next((key for key, t in tensors.items() if t.spec.dtype not in FLOATS), None)
    if integral:
        raise UnsupportedTensor(
            f"{integral} has the type {tensors[integral].spec.dtype}",
            where=checkpoint.where,
            hint="quantised weights cannot be scaled: use the checkpoint they were made from",
        )
    untouched = not dropped and not renamed and not checkpoint.prefix
    return Source(
        architecture=architecture,
        tensors=tensors,
        renamed=renamed,
        dropped=(*dropped, *checkpoint.left_out),
        verbatim=checkpoint.files if untouched else (),
        preprocessing=preprocessing(model),
    )


def find_mismatch(
    checkpoint: Checkpoint, architecture: Architecture, model: nn.Module
) -> ArchitectureMismatch | None:
    """Why the tensors cannot be those of a model; None where they can."""
    try:
        check_tensors(model, _rename(checkpoint, architecture.family, model)[0], checkpoint.where)
    except ArchitectureMismatch as problem:
        return problem
    return None


def _rename(
    checkpoint: Checkpoint, family: str, model: nn.Module
) -> tuple[dict[str, SourceTensor], dict[str, str], tuple[str, ...]]:
    """Timm key -> tensor, timm key -> the author's key where it differs, and derived buffers."""
    stand_ins = {
        key: torch.empty(
            tensor.spec.shape, dtype=getattr(torch, TORCH_NAMES[tensor.spec.dtype]), device="meta"
        )
        for key, tensor in checkpoint.tensors.items()
    }
    try:
        with warnings.catch_warnings():
            # On a wrong candidate timm resamples tables; what it says about that is not for users.
            warnings.simplefilter("ignore")
            converted = timm_family(family).checkpoints.filter_keys(dict(stand_ins), model)
    except (RuntimeError, LookupError, ValueError, AttributeError, TypeError) as error:
        raise ArchitectureMismatch(
            f"timm cannot read these tensors as this architecture: {error}", where=checkpoint.where
        ) from None
    author_keys = {id(tensor): key for key, tensor in stand_ins.items()}
    tensors, renamed = {}, {}
    for key, tensor in converted.items():
        author = author_keys.get(id(tensor))
        if author is None:
            raise ArchitectureMismatch(
                f"{key} would have to be resampled to fit the architecture",
                where=checkpoint.where,
                hint="give the image size and patch size of the checkpoint with --model-kwargs",
            )
        tensors[key] = checkpoint.tensors[author]
        if author != key:
            renamed[key] = author
    kept = {renamed.get(key, key) for key in tensors}
    dropped = tuple(key for key in checkpoint.tensors if key not in kept)
    return tensors, renamed, dropped
