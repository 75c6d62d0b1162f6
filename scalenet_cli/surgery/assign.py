"""Puts tensors into a model under their keys, without loosening a tie."""

from collections.abc import Mapping

import torch
from torch import nn

from scalenet_cli.families.sources.tensors import ALIGNMENT
from scalenet_cli.surgery.ties import keys_by_parameter


def set_parameters(model: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Replaces parameters in place; every other key of a replaced Parameter follows it.

    A tensor that is mapped from a file and does not lie as PyTorch would have allocated it is
    copied, or kernels may round otherwise than on the source model. The caller has checked names
    and shapes.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    names = keys_by_parameter(model)
    for key, tensor in tensors.items():
        replacement = nn.Parameter(_aligned(tensor), requires_grad=tensor.is_floating_point())
        for alias in names[id(parameters[key])]:
            path, _, name = alias.rpartition(".")
            setattr(model.get_submodule(path), name, replacement)


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.clone() if tensor.data_ptr() % ALIGNMENT else tensor


def meta_like(specs: Mapping[str, tuple[tuple[int, ...], torch.dtype]]) -> dict[str, torch.Tensor]:
    """Tensors without data of the given shapes and types."""
    return {
        key: torch.empty(shape, dtype=dtype, device="meta") for key, (shape, dtype) in specs.items()
    }
