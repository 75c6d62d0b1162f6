"""Plots of a study: curves, and the metric against parameters and against training compute."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from scalenet_cli.reports.plot_style import dashes, draw_staged, point_look
from scalenet_cli.reports.spread import SeedSpread
from scalenet_cli.study.results import ArmResult, StudyResults
from scalenet_cli.tasks import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES: Final = "curves.png"
PARAMETERS: Final = "parameters.png"
COMPUTE: Final = "compute.png"


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
    with draw_staged(path) as (_, axes):
        _plot_curves(results, axes)


def _plot_curves(results: StudyResults, axes: "Axes") -> None:
    for order, arm in enumerate(results.arms):
        points = _curve(arm)
        if not points:
            continue
        epochs = [epoch for epoch, _ in points]
        style = point_look(order)
        axes.plot(
            epochs,
            [sum(values) / len(values) for _, values in points],
            label=arm.cost.name,
            linestyle=dashes(order),
            markevery=max(1, len(epochs) // 8),
            **style,
        )
        low, high = ([pick(values) for _, values in points] for pick in (min, max))
        axes.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel=_label(results), title="mean and range over seeds")


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
    with draw_staged(path) as (_, axes):
        _plot_against(results, axes, label, cost)


def _plot_against(
    results: StudyResults, axes: "Axes", label: str, cost: Callable[[ArmResult], float]
) -> None:
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
            **point_look(order),
        )
    axes.set(xlabel=label, ylabel=f"{_label(results)} at the end")


def _bar(spread: SeedSpread) -> list[list[float]]:
    # A mean is rounded: of equal values it may lie beside them.
    return [[max(0.0, spread.mean - spread.min)], [max(0.0, spread.max - spread.mean)]]


def _label(results: StudyResults) -> str:
    name = find_metric(results.metric).title
    return name if results.larger_is_better else f"{name} (lower is better)"
