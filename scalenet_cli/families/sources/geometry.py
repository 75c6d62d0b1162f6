"""What the shapes of a timm checkpoint say about its architecture."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from scalenet_cli.errors import ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families.sources.checkpoint import Checkpoint

_MAX_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes read off the tensors, under timm's argument names.

    Attributes:
        family: key in FAMILIES.
        generic: the architecture of timm that takes all these sizes as arguments.
        arguments: all sizes; a ViT has no ``img_size`` here where its position embedding is
            missing, or no square.
        head: those that differ between finetunes of one architecture: classes and channels.
        heads_known: whether the shapes show the number of heads.
        assumed: arguments that the shapes leave open, as they are taken.
    """

    family: str
    generic: str
    arguments: Mapping[str, Any]
    head: Mapping[str, Any]
    heads_known: bool
    assumed: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The sizes that people recognise a model by."""
        shown = ("img_size", "patch_size", "embed_dim", "depth", "depths", "num_heads")
        return ", ".join(f"{key} {self.arguments[key]}" for key in shown if key in self.arguments)


def head_arguments(classes: int, channels: int) -> dict[str, Any]:
    """What differs between finetunes of one architecture."""
    head: dict[str, Any] = {"num_classes": classes}
    if channels != 3:
        head["in_chans"] = channels
    return head


class Shapes:
    """Shapes by key; a missing key or an odd rank is the checkpoint's fault, not ours."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def __contains__(self, key: str) -> bool:
        return key in self._checkpoint.tensors

    def __getitem__(self, key: str) -> tuple[int, ...]:
        ranks = {"patch_embed.proj.weight": 4, "pos_embed": 3, "reg_token": 3}
        rank = ranks.get(key, 3 if key.endswith("attn_mask") else 2)
        rank = 1 if key.endswith("q_norm.weight") else rank
        tensor = self._checkpoint.tensors.get(key)
        if tensor is None or len(tensor.spec.shape) != rank or 0 in tensor.spec.shape:
            found = "is missing" if tensor is None else f"has the shape {tensor.spec.shape}"
            raise UnknownArchitecture(f"{key} {found}", where=self._checkpoint.where)
        return tensor.spec.shape

    def count(self, pattern: str) -> int:
        """One more than the largest number that the pattern finds in a key."""
        found = (re.match(pattern, key) for key in self._checkpoint.tensors)
        numbers = [match.group(1) for match in found if match]
        if any(len(number) > _MAX_DIGITS for number in numbers):
            raise ArchitectureMismatch(
                "a key counts more blocks than any model has", where=self._checkpoint.where
            )
        return max(map(int, numbers), default=-1) + 1
