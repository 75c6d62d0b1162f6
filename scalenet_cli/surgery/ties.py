"""Which keys of a model are one Parameter, and whether they still are."""

from collections import defaultdict
from collections.abc import Mapping

from torch import nn

from scalenet_cli.errors import BundleTieBroken

# Canonical key (the source model's own) -> every key of the scaled model that is this tensor.
TieTable = Mapping[str, tuple[str, ...]]


def keys_by_parameter(model: nn.Module) -> dict[int, tuple[str, ...]]:
    """All keys of each Parameter, by the Parameter's ``id``."""
    keys: defaultdict[int, list[str]] = defaultdict(list)
    for key, parameter in model.named_parameters(remove_duplicate=False):
        keys[id(parameter)].append(key)
    return {identity: tuple(names) for identity, names in keys.items()}


def ties(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Canonical key -> alias keys, for every tensor that several keys of a model share.

    The canonical key is the one under which ``named_parameters()`` and ``named_parameters``-based
    tools see the tensor, once; ``state_dict()`` lists it under the alias keys as well. The tensor
    is found by its identity, so two tensors with equal values are no tie.
    """
    groups = keys_by_parameter(model).values()
    return {keys[0]: keys[1:] for keys in groups if len(keys) > 1}


def verify_ties(model: nn.Module, ties: TieTable) -> None:
    """Every tie group is one Parameter object, and no two groups are the same one.

    Raises:
        BundleTieBroken: a key is missing, or two keys of a group are different tensors.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    owner: dict[int, str] = {}
    for canonical, aliases in ties.items():
        missing = [alias for alias in aliases if alias not in parameters]
        if missing:
            raise BundleTieBroken(
                f"{missing[0]} is tied to {canonical} in the manifest, but the model has no such "
                "tensor",
                hint="expand the source checkpoint again",
            )
        first = parameters[aliases[0]]
        for alias in aliases[1:]:
            if parameters[alias] is not first:
                raise BundleTieBroken(
                    f"{aliases[0]} and {alias} should be one tensor ({canonical}), but are two",
                    hint="tie by sharing modules: assigning a new Parameter to one key breaks it",
                )
        if owner.setdefault(id(first), canonical) != canonical:
            raise BundleTieBroken(
                f"{canonical} and {owner[id(first)]} should be two tensors, but are one",
            )
