"""What the plots of a diagnosis have in common.

They are to be read in grey print and by colour-blind eyes: colours are of cividis, which is ordered
by lightness, and every line also has a marker and a style of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.diagnosis.report import ModelReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS: Final = "os^Dv<>Pp*"
_STYLES: Final = ("-", "--", "-.", ":")
# Values so far apart do not fit on a linear axis.
FAR: Final = 30
_WIDEST: Final = 16.0
_LONGEST: Final = 40


@contextmanager
def draw_on(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """A figure to draw on, in inches; a PNG in the end."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    yield figure
    figure.savefig(path, dpi=120, metadata={"Software": None})


def line_look(order: int, count: int) -> dict[str, Any]:
    """Colour, marker and style of one of several lines, from dark to light."""
    from matplotlib import colormaps

    # The lightest quarter of cividis is too pale for lines on white.
    shade = 0.72 * order / max(count - 1, 1)
    return {
        "color": colormaps["cividis"](shade),
        "marker": _MARKERS[order % len(_MARKERS)],
        "linestyle": _STYLES[order % len(_STYLES)],
        "markersize": 5,
        "linewidth": 1.4,
    }


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


def choose_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Logarithmic where values are far apart and all above 0, else linear from 0."""
    if min(values) > 0 and max(values) > FAR * min(values):
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)


def finish_axes(axes: "Axes") -> None:
    """Grid and legend."""
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
