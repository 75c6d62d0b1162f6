"""Blocks of a model along an axis: their names, and how much room they need."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from scalenet_cli.diagnosis.report import ModelReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDEST: Final = 16.0
_LONGEST: Final = 40


def block_labels(model: ModelReport) -> list[str]:
    """What is executed at every place: the source block, primed once per further use."""
    return [
        (f"{block.stage}." if has_stages(model) else "") + f"{block.source}" + "'" * block.ordinal
        for block in model.blocks
    ]


def label_blocks(axes: "Axes", labels: Sequence[str], name: str, *, vertical: bool = False) -> None:
    """Names along an axis, as many of them as there is room for."""
    step = -(-len(labels) // 28)
    places = range(0, len(labels), step)
    shown = [labels[place] for place in places]
    if vertical:
        axes.set_yticks(places, shown)
        axes.set_ylabel(name)
    else:
        axes.set_xticks(places, shown, rotation=90 if max(map(len, shown)) > 3 else 0)
        axes.set_xlabel(name)


def model_name(model: ModelReport) -> str:
    """What plots call it."""
    return _printable(model.name)


def _printable(text: str) -> str:
    """No mathematics, and no characters that a font lacks."""
    shown = "".join(c if c.isprintable() and c.isascii() else "?" for c in text)
    return (shown if len(shown) <= _LONGEST else f"...{shown[3 - _LONGEST :]}").replace("$", r"\$")


def has_stages(model: ModelReport) -> bool:
    """Whether its blocks need a stage in their names."""
    return model.blocks[-1].stage > 0


def figure_width(num_blocks: int) -> float:
    """Inches for an axis with so many blocks."""
    return min(_WIDEST, 4 + 0.3 * num_blocks)
