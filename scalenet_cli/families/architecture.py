"""What a source model is built from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Architecture:
    """Enough to build the source model without its weights: pure JSON values.

    ``arguments`` are timm's keyword arguments, or the whole Hugging Face config.
    """

    family: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
