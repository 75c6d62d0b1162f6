"""How all plots look.

They are to be read in grey print and by colour-blind eyes: colours are of cividis, which is ordered
by lightness, and every line also has a marker and a style of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.files.staged_file import staged_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette, without its yellow, which vanishes on white paper.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Without colour a kind of points is known by its marker, and a curve by its dashes as well.
_POINTS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_MARKERS: Final = "os^Dv<>Pp*"
_STYLES: Final = ("-", "--", "-.", ":")
# Values so far apart do not fit on a linear axis.
FAR: Final = 30


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


@contextmanager
def draw_staged(path: Path) -> Iterator["tuple[Figure, Axes]"]:
    """A figure with one plot and its legend beside it; a PNG in the end, whole or not at all.

    Raises:
        OutputUnwritable: no permission, or no room.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    yield figure, axes
    axes.grid(alpha=0.3)
    handles: Sequence[Any] = axes.get_legend_handles_labels()[0]
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handles=handles)
    with staged_file(path, failure="it cannot be written") as staging:
        figure.savefig(staging, format="png", dpi=120, metadata={"Software": None})


def point_look(order: int) -> dict[str, Any]:
    """Colour and marker of one of several kinds of points; see dashes for lines."""
    return {
        "color": _COLOURS[order % len(_COLOURS)],
        "marker": _POINTS[order % len(_POINTS)],
        # Hollow, and not all of one size: points at one place are all seen.
        "markersize": 5 + 2.5 * (order % 3),
        "markerfacecolor": "none",
        "markeredgewidth": 1.5,
    }


def dashes(order: int) -> str:
    """The line of one of several curves."""
    return _STYLES[order % len(_STYLES)]
