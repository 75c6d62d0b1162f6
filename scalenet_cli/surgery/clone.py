"""Structural clones that share what is tied."""

import copy
from collections.abc import Iterable
from typing import TypeVar

from torch import nn

from scalenet_cli.errors import UnknownBlockTensor
from scalenet_cli.families.base import Anatomy
from scalenet_cli.surgery.guard import drop_guards

M = TypeVar("M", bound=nn.Module)


def clone_structure(model: M) -> M:
    """A model of its own around the very same Parameter objects, without guards of its ties."""
    clone = copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
    drop_guards(clone)
    return clone


def clone_tied(block: M, shared: Iterable[object]) -> M:
    """A block with its own structure and tensors around the very same ``shared`` objects."""
    return copy.deepcopy(block, {id(item): item for item in shared})


def check_anatomy(block: nn.Module, anatomy: Anatomy, path: str) -> None:
    """Every parameter of the block is below exactly one part that the family names.

    Raises:
        UnknownBlockTensor: a tensor that surgery would neither tie nor copy on purpose.
    """
    parts = (*anatomy.linears, *anatomy.others, *anatomy.norms)
    for key, _ in block.named_parameters():
        owners = [part for part in parts if key.startswith(f"{part}.")]
        if len(owners) != 1:
            raise UnknownBlockTensor(
                f"{path} has the tensor {key}, and its family does not say whether it is tied",
                hint="this variant of the architecture is not supported yet",
            )
    for part in anatomy.linears:
        if not isinstance(block.get_submodule(part), nn.Linear):
            raise UnknownBlockTensor(
                f"{path}.{part} is a {type(block.get_submodule(part)).__name__}, not a Linear",
                hint="scale the model before other tools wrap or quantise its Linears",
            )
