"""The plots of a diagnosis, drawn from its report alone."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from scalenet_cli.diagnosis.block_axes import (
    block_labels,
    figure_width,
    has_stages,
    label_blocks,
    model_name,
)
from scalenet_cli.diagnosis.report import (
    AblationReport,
    BlockGradient,
    DiagnoseReport,
    HistogramReport,
    ModelReport,
    ScoreReport,
)
from scalenet_cli.reports.plot_style import FAR, choose_scale, draw_on, finish_axes, line_look
from scalenet_cli.tasks import find_metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Cells of a matrix that have room for a number, and below which value they are dark.
_MAX_WRITTEN: Final = 200
_DARK: Final = 0.55


def draw_plots(report: DiagnoseReport, folder: Path) -> tuple[str, ...]:
    """Writes every plot that the report has numbers for; returns their names."""
    wanted: Mapping[str, tuple[bool, Callable[[DiagnoseReport, Path], None]]] = {
        "gradients.png": (True, _draw_gradients),
        "activations.png": (True, _draw_activations),
        "cka.png": (True, _draw_cka),
        "adapters.png": (bool(report.adapters), _draw_adapters),
        "instances.png": (bool(report.ablations), _draw_instances),
    }
    drawn = tuple(name for name, (there, _) in wanted.items() if there)
    for name in drawn:
        wanted[name][1](report, folder / name)
    return drawn


def _draw_gradients(report: DiagnoseReport, path: Path) -> None:
    models = [one for one in (report.model, report.against) if one is not None]
    depth = max(len({(row.stage, row.source) for row in one.gradients}) for one in models)
    lines = [line for one in models for line in _gradient_lines(one, alone=len(models) == 1)]
    with draw_on(path, figure_width(2 * depth), 4) as figure:
        axes = figure.subplots()
        for order, (name, places, norms) in enumerate(lines):
            axes.plot(places, norms, label=name, **line_look(order, len(lines)))
        sources = _source_places(max(models, key=lambda one: len(_source_places(one))))
        labels = [f"{stage}.{source}" if has_stages(models[0]) else str(source)
                  for stage, source in sources]  # fmt: skip
        label_blocks(axes, labels, "source block")
        axes.set_ylabel("l2 norm of the gradient of the mean loss")
        choose_scale(axes, [norm for _, _, norms in lines for norm in norms])
        finish_axes(axes)


def _source_places(model: ModelReport) -> dict[tuple[int, int], int]:
    """Where each source block stands on the axis."""
    found = sorted({(row.stage, row.source) for row in model.gradients})
    return {key: order for order, key in enumerate(found)}


def _gradient_lines(
    model: ModelReport, *, alone: bool
) -> Iterator[tuple[str, list[int], list[float]]]:
    """Name, places and norms: of the tied tensors, and of each use where there are several."""
    places, prefix = _source_places(model), "" if alone else f"{model_name(model)}: "
    uses = max(part.ordinal for row in model.gradients for part in row.instances) + 1
    main = [row for row in model.gradients if row.instances[0].ordinal == 0]
    told = "the block's tensors" if uses == 1 else "the tied tensors, all uses"
    yield _gradient_line(f"{prefix}{told}", main, places)
    for ordinal in range(uses if uses > 1 else 0):
        parts = [p for row in model.gradients for p in row.instances if p.ordinal == ordinal]
        at = [places[part.stage, part.source] for part in parts]
        use = "the pretrained occurrence" if ordinal == 0 else f"further use {ordinal}"
        yield f"{prefix}{use} alone", at, [part.norm for part in parts]


def _gradient_line(
    name: str, rows: Sequence[BlockGradient], places: Mapping[tuple[int, int], int]
) -> tuple[str, list[int], list[float]]:
    return name, [places[row.stage, row.source] for row in rows], [row.norm for row in rows]


def _draw_activations(report: DiagnoseReport, path: Path) -> None:
    """One row per model; all on one scale."""
    models = [one for one in (report.model, report.against) if one is not None]
    columns = max(len(one.histograms) for one in models)
    highest = max(max(_shares(found)) for one in models for found in one.histograms)
    with draw_on(path, max(2 * columns + 0.8, 4), 2.6 * len(models)) as figure:
        rows = figure.subfigures(len(models), 1, squeeze=False)[:, 0]
        for row, model in zip(rows, models, strict=True):
            row.suptitle(model_name(model))
            grid = row.subplots(1, columns, squeeze=False)[0]
            labels = block_labels(model)
            for axes, found in zip(grid, model.histograms, strict=False):
                _draw_histogram(axes, found, report.clip)
                title = f"block {found.depth} (source {labels[found.depth]})"
                axes.set_title(title, fontsize="small")
                axes.set_ylim(0, 1.05 * highest)
                axes.tick_params(labelleft=axes is grid[0])
            for axes in grid[len(model.histograms) :]:
                axes.set_axis_off()
            grid[0].set_ylabel("share of values, %")


def _shares(found: HistogramReport) -> list[float]:
    return [100 * count / found.num_values for count in found.counts]


def _draw_histogram(axes: "Axes", found: HistogramReport, clip: float) -> None:
    from matplotlib import colormaps

    bins = len(found.counts)
    edges = [-clip + 2 * clip * order / bins for order in range(bins + 1)]
    axes.stairs(_shares(found), edges, fill=True, color=colormaps["cividis"](0.35))
    beyond = 100 * found.beyond
    told = f"{beyond:.2f}" if beyond >= 0.01 else "< 0.01" if beyond else "0"
    text = f"std {found.std:.3g}\nbeyond {told} %"
    axes.text(0.97, 0.95, text, ha="right", va="top", fontsize="x-small", transform=axes.transAxes)
    axes.set_xlabel("activation")
    axes.grid(alpha=0.3)


def _draw_cka(report: DiagnoseReport, path: Path) -> None:
    other = report.against or report.model
    down, across = len(report.model.blocks), len(other.blocks)
    cell = min(max(7 / max(down, across), 0.18), 0.5)
    wide, high = max(cell * across, 1.8), max(cell * down, 1.8)
    with draw_on(path, 2 * wide + 2.2, high + 1.2) as figure:
        grid = figure.subplots(1, 2)
        for axes, title, matrix in (
            (grid[0], "linear CKA", report.cka.linear),
            (grid[1], "unbiased", report.cka.unbiased),
        ):
            image = _draw_matrix(axes, matrix)
            axes.set_title(title)
            labels = block_labels(other)
            label_blocks(axes, labels, f"block of {model_name(other)}")
        labels = block_labels(report.model)
        label_blocks(grid[0], labels, f"block of {model_name(report.model)}", vertical=True)
        grid[1].set_yticks([])
        figure.colorbar(image, ax=list(grid), label="CKA (1 = alike)")


def _draw_matrix(axes: "Axes", matrix: Sequence[Sequence[float | None]]) -> Any:
    """Cells with their numbers where there are few, for those who see no colour."""
    from matplotlib import colormaps

    values = [[float("nan") if v is None else v for v in row] for row in matrix]
    colours = colormaps["cividis"].with_extremes(bad="white")
    image = axes.imshow(values, vmin=0, vmax=1, cmap=colours, origin="lower", aspect="auto")
    if len(values) * len(values[0]) <= _MAX_WRITTEN:
        for down, row in enumerate(values):
            for across, value in enumerate(row):
                ink = "white" if value < _DARK else "black"
                axes.text(across, down, f"{value:.2f}", ha="center", va="center", color=ink,
                          fontsize="x-small")  # fmt: skip
    return image


def _draw_adapters(report: DiagnoseReport, path: Path) -> None:
    labels = block_labels(report.model)
    places = {(b.stage, b.position): order for order, b in enumerate(report.model.blocks)}
    linears = list(dict.fromkeys(row.linear for row in report.adapters))
    with draw_on(path, figure_width(len(labels)), 4) as figure:
        axes = figure.subplots()
        for order, linear in enumerate(linears):
            rows = [row for row in report.adapters if row.linear == linear]
            at = [places[row.stage, row.position] for row in rows]
            axes.plot(
                at, [row.ratio for row in rows], label=linear, **line_look(order, len(linears))
            )
        label_blocks(axes, labels, "executed block (source; ' a further use)")
        axes.set_ylabel("norm of adapter output / of core output")
        choose_scale(axes, [row.ratio for row in report.adapters])
        finish_axes(axes)


def _draw_instances(report: DiagnoseReport, path: Path) -> None:
    labels = block_labels(report.model)
    places = {(b.stage, b.position): order for order, b in enumerate(report.model.blocks)}
    metric = find_metric(report.metric)
    values = [report.model.score.value(metric.name)]
    kinds: Mapping[str, Callable[[AblationReport], ScoreReport | None]] = {
        "block skipped": lambda row: row.skipped,
        "adapters removed": lambda row: row.without_adapters,
    }
    with draw_on(path, figure_width(len(labels)), 4) as figure:
        axes = figure.subplots()
        axes.axhline(values[0], color="black", lw=1, ls=":", label="the whole model")
        for order, (name, pick) in enumerate(kinds.items()):
            found = [(places[row.stage, row.position], score)
                     for row in report.ablations if (score := pick(row)) is not None]  # fmt: skip
            if not found:
                continue
            at, heights = [p for p, _ in found], [score.value(metric.name) for _, score in found]
            values += heights
            look = {**line_look(order, 2), "linestyle": "none", "markersize": 7 - 2 * order}
            axes.plot(at, heights, label=name, **look)
        label_blocks(axes, labels, "executed block (source; ' a further use)")
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylabel(metric.title)
        if not metric.is_share and max(values) > FAR * min(values):
            axes.set_yscale("log")
        finish_axes(axes)
