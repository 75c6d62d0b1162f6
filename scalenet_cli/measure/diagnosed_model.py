"""What is diagnosed: a model with its layout, and samples as it takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.errors import OptionError
from scalenet_cli.families.base import Family
from scalenet_cli.measure.model_outputs import Samples
from scalenet_cli.plan.layout import Layout

if TYPE_CHECKING:
    from torch import nn


# Samples and features are held in memory at once, as float32.
MAX_HELD_BYTES: Final = 8 * 2**30


@dataclass(frozen=True, slots=True)
class DiagnosedModel:
    """A model in evaluation mode and in float32, and all samples on the CPU.

    ``place`` is where they come from, ``preparation`` how they were made of what is there;
    ``held_bytes`` is what they and the features take.
    """

    name: str
    model: "nn.Module"
    family: Family
    architecture: str
    layout: Layout
    batches: Sequence[Samples]
    place: str
    preparation: Mapping[str, Any]
    notes: tuple[str, ...]
    held_bytes: int

    @property
    def num_samples(self) -> int:
        """Images or sequences."""
        return sum(map(len, self.batches))


def require_room(
    num_samples: int, sample_bytes: int, layout: Layout, widths: Sequence[int],
    cka_tokens: int | None, *, held: int,
) -> int:  # fmt: skip
    """Samples and features fit into a fixed amount of memory; returns how much they take.

    ``held`` is what those of another model take.

    Raises:
        OptionError: they do not.
    """
    rows = num_samples * (cka_tokens or 1)
    channels = [width for stage, width in zip(layout.stages, widths, strict=True)
                for _ in stage.instances]  # fmt: skip
    kept = 8 * rows * min(rows, max(widths)) * len(channels)
    needed = num_samples * sample_bytes + 4 * rows * sum(channels) + kept
    if held + needed > MAX_HELD_BYTES:
        tokens = f" with {cka_tokens} tokens each" if cka_tokens else ""
        raise OptionError(
            f"{num_samples:,} samples{tokens} and their features take "
            f"{(held + needed) / 2**30:.1f} GiB{' for both models' if held else ''}, more than "
            f"{MAX_HELD_BYTES / 2**30:g}",
            hint="lower --limit" + (" or --cka-tokens" if cka_tokens else ""),
        )
    return needed
