"""Where a state dict lies: inside the dicts of a training checkpoint, below prefixes of keys."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from scalenet_cli.errors import AmbiguousArchitecture, CheckpointUnreadable
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.tensors import SourceTensor

# The order in which timm looks for the state dict: an EMA wins over the raw weights.
_TIMM_WRAPPERS: Final = ("state_dict_ema", "model_ema", "state_dict", "model")
_WRAPPERS: Final = (*_TIMM_WRAPPERS, "model_state_dict", "model_state")
# What DistributedDataParallel and torch.compile put before every key, in any order.
_WRAPPING: Final = ("module.", "_orig_mod.")
_MAX_DEPTH: Final = 4
_PATCHES: Final = "patch_embed.proj.weight"


@dataclass(frozen=True, slots=True)
class FoundState:
    """The tensors, the keys that lead to them, what lies beside them, and what was decided."""

    tensors: dict[str, torch.Tensor]
    wrapper: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_state(content: Mapping[str, Any], where: str) -> FoundState:
    """The state dict in what ``torch.save`` wrote.

    Raises:
        AmbiguousArchitecture: several state dicts, under names that do not say which is meant.
        CheckpointUnreadable: no tensors.
    """
    wrapper: list[str] = []
    beside: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    found: Mapping[str, Any] = content
    while len(wrapper) <= _MAX_DEPTH and (key := _wrapping_key(found, where)) is not None:
        if not wrapper:
            beside = tuple(str(other) for other in found if other != key)
            notes = _told_choice(found, key, where)
        wrapper.append(key)
        found = found[key]
    state = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not state:
        raise CheckpointUnreadable(
            f"the file holds no tensors; its keys are {', '.join(map(str, list(found)[:6]))}",
            where=where,
            hint="save a state dict: torch.save(model.state_dict(), path)",
        )
    return FoundState(state, tuple(wrapper), beside, notes)


def _wrapping_key(found: Mapping[str, Any], where: str) -> str | None:
    """The key behind which the state dict lies; None where this is the state dict."""
    known = next((key for key in _WRAPPERS if isinstance(found.get(key), Mapping)), None)
    if known is not None or any(isinstance(value, torch.Tensor) for value in found.values()):
        return known
    holders = _holders(found)
    if len(holders) > 1:
        raise AmbiguousArchitecture(
            f"the file holds {len(holders)} state dicts: {', '.join(holders)}",
            where=where,
            hint="save the one that is meant by itself: torch.save(torch.load(path)"
            f"[{holders[0]!r}], new_path)",
        )
    return holders[0] if holders else None


def _holders(found: Mapping[str, Any]) -> list[str]:
    """The keys of dicts that hold tensors by name."""
    return [
        key
        for key, value in found.items()
        if isinstance(key, str)
        and isinstance(value, Mapping)
        and any(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items())
    ]


def _told_choice(found: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    weights = [name for name in _WRAPPERS if isinstance(found.get(name), Mapping)]
    weights += [name for name in _holders(found) if name not in weights]
    if len(weights) < 2:
        return ()
    how = f"{key} is used, as in timm" if key in _TIMM_WRAPPERS else f"{key} is used"
    return (f"{where} holds {' and '.join(weights)}; {how}",)


def strip_wrapping(tensors: dict[str, SourceTensor]) -> dict[str, SourceTensor]:
    """Without what DistributedDataParallel and torch.compile put before every key."""
    while prefix := next((p for p in _WRAPPING if all(k.startswith(p) for k in tensors)), None):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors


def unwrap(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint with the keys of a timm model below its prefix, such as ``model.``.

    What does not lie below the prefix, such as the weights of a loss, is no part of the model: it
    is left out, with a note. Keys of anything but a timm ViT or Swin stay as they are.

    Raises:
        AmbiguousArchitecture: several models below different prefixes.
    """
    prefixes = _prefixes(checkpoint.tensors)
    if not prefixes or "" in prefixes:
        return checkpoint
    if len(prefixes) > 1:
        raise AmbiguousArchitecture(
            f"the file holds {len(prefixes)} models, with keys that start with "
            f"{', '.join(prefixes)}",
            where=checkpoint.where,
            hint=f"save the one that is meant by itself: the tensors under {prefixes[0]}, without "
            "that prefix",
        )
    prefix = prefixes[0]
    kept = {
        key.removeprefix(prefix): tensor
        for key, tensor in checkpoint.tensors.items()
        if key.startswith(prefix)
    }
    left_out = tuple(key for key in checkpoint.tensors if not key.startswith(prefix))
    notes = checkpoint.notes
    if left_out:
        notes += (
            f"the model is what lies under {prefix}; tensors beside it are left out: "
            f"{left_out[0]}{f' and {len(left_out) - 1} more' if len(left_out) > 1 else ''}",
        )
    return replace(checkpoint, tensors=kept, prefix=prefix, left_out=left_out, notes=notes)


def _prefixes(tensors: Mapping[str, SourceTensor]) -> list[str]:
    """Before which keys a timm model starts, in the order of the file.

    It starts where its first block lies beside a patch embedding.
    """
    from scalenet_cli.families.timm_models import timm_families

    ends = [known.checkpoints.signs[0] for known in timm_families()]
    found = (key.removesuffix(end) for key in tensors for end in ends if key.endswith(end))
    return [
        prefix
        for prefix in dict.fromkeys(found)
        if prefix[-1:] in ("", ".") and f"{prefix}{_PATCHES}" in tensors
    ]
