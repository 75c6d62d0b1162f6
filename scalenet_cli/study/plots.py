"""Plots of a study: curves, and the metric against parameters and against training compute."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.study.results import ArmResult, SeedSpread, StudyResults
from scalenet_cli.tasks import find_metric

CURVES: Final = "curves.png"
PARAMETERS: Final = "parameters.png"
COMPUTE: Final = "compute.png"
# Okabe and Ito's palette, without its yellow, which vanishes on white paper.
_COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
# Without colour an arm is known by its marker, and a curve by its dashes as well.
_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
_LINES: Final = ("-", "--", "-.", ":")


def draw_plots(results: StudyResults, folder: Path) -> tuple[str, ...]:
    """The PNGs of what is finished, and none where nothing is; returns their names."""
    if not any(arm.last for arm in results.arms):
        for name in (CURVES, PARAMETERS, COMPUTE):
            (folder / name).unlink(missing_ok=True)
        return ()
    _draw_curves(results, folder / CURVES)
    _draw_against(
        results, folder / PARAMETERS, "stored parameters, M", lambda arm: arm.cost.stored / 1e6
    )
    _draw_against(
        results,
        folder / COMPUTE,
        "training compute, FLOPs",
        lambda arm: float(arm.cost.total_train_flops),
    )
    return CURVES, PARAMETERS, COMPUTE


def _draw_curves(results: StudyResults, path: Path) -> None:
    """Mean over seeds, and the range as a band."""
    figure, axes = _figure()
    for order, arm in enumerate(results.arms):
        points = _curve(arm)
        if not points:
            continue
        epochs = [epoch for epoch, _ in points]
        style = _style(order)
        axes.plot(
            epochs,
            [sum(values) / len(values) for _, values in points],
            label=arm.cost.name,
            linestyle=_LINES[order % len(_LINES)],
            markevery=max(1, len(epochs) // 8),
            **style,
        )
        low, high = ([pick(values) for _, values in points] for pick in (min, max))
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=_label(results), title="mean and range over seeds")
    _save(figure, axes, path)


def _curve(arm: ArmResult) -> list[tuple[float, list[float]]]:
    """The metric of all seeds at each epoch that all seeds have."""
    curves = [dict(cell.curve) for cell in arm.cells if cell.outcome.diverged is None]
    if not curves:
        return []
    common = sorted(set.intersection(*(set(curve) for curve in curves)))
    return [(epoch, [curve[epoch] for curve in curves]) for epoch in common]


def _draw_against(
    results: StudyResults, path: Path, label: str, cost: Callable[[ArmResult], float]
) -> None:
    """The last value of each arm; the bar is from the worst to the best seed."""
    figure, axes = _figure()
    for order, arm in enumerate(results.arms):
        if arm.last is None:
            continue
        axes.errorbar(
            [cost(arm)],
            [arm.last.mean],
            yerr=_bar(arm.last),
            label=arm.cost.name,
            linestyle="none",
            capsize=3,
            **_style(order),
        )
    axes.set(xlabel=label, ylabel=f"{_label(results)} at the end")
    _save(figure, axes, path)


def _bar(spread: SeedSpread) -> list[list[float]]:
    # A mean is rounded: of equal values it may lie beside them.
    return [[max(0.0, spread.mean - spread.min)], [max(0.0, spread.max - spread.mean)]]


def _style(order: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[order % len(_COLOURS)],
        "marker": _MARKERS[order % len(_MARKERS)],
        # Hollow, and not all of one size: points at one place are all seen.
        "markersize": 5 + 2.5 * (order % 3),
        "markerfacecolor": "none",
        "markeredgewidth": 1.5,
    }


def _label(results: StudyResults) -> str:
    name = find_metric(results.metric).title
    return name if results.larger_is_better else f"{name} (lower is better)"


def _figure() -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.3)
    handles: Sequence[Any] = axes.get_legend_handles_labels()[0]
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, handles=handles)
    with staged_file(path, failure="it cannot be written") as staging:
        figure.savefig(staging, format="png", dpi=120, metadata={"Software": None})
