"""What a timm family says of its checkpoints, which come without a config."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry


def _may_be_any(_: Geometry, name: str, input_size: Sequence[int]) -> bool:
    return True


@final
@dataclass(frozen=True, slots=True)
class TimmCheckpoints:
    """How checkpoints of a timm family are recognised and read without a config.

    Attributes:
        modules: timm's modules that define its architectures.
        signs: keys that all of its files have; the first, which is of a block, no other family's
            files have.
        geometry: what shapes of tensors say.
        filter_keys: timm's own function from an author's keys to the model's.
        shallow: arguments of a model with one block per stage, which is quick to build.
        may_be: a cheap test on an architecture's name and timm's (channels, height, width) of it.
        positions_fix_size: a table of positions says for what image size a model was built.
    """

    modules: tuple[str, ...]
    signs: tuple[str, ...]
    geometry: Callable[[Checkpoint], Geometry]
    filter_keys: Callable[[dict[str, Any], Any], dict[str, Any]]
    shallow: Mapping[str, Any]
    may_be: Callable[[Geometry, str, Sequence[int]], bool] = _may_be_any
    positions_fix_size: bool = False

    def names(self) -> list[str]:
        """Every architecture in timm's registry."""
        from timm.models import list_models

        return [name for module in self.modules for name in list_models(module=module)]
