"""The page of a diagnosis: its plots, each with a sentence on what it shows."""

from collections.abc import Mapping
from typing import Final

from scalenet_cli.diagnosis.report import DiagnoseReport, ModelReport, ScoreReport
from scalenet_cli.reports.metrics import Metric
from scalenet_cli.tasks import find_metric, task_judged_by

_PLOTS: Final[Mapping[str, tuple[str, str]]] = {
    "gradients.png": (
        "Gradient norms",
        "How strongly the loss pulls at each source block's tied tensors: the gradient of a shared "
        "tensor is the sum over its instances, and the lines of single uses are what each of them "
        "alone adds to it; a sum below its parts means that instances pull in different "
        "directions.",
    ),
    "activations.png": (
        "Activations",
        "What blocks put out at evenly spaced depths, clipped to [-{clip:g}, {clip:g}] (the outer "
        "bars hold what is beyond) on one scale: shapes that change much from the source model to "
        "the scaled one mean that blocks see inputs they were not trained for.",
    ),
    "cka.png": (
        "Similarity of blocks",
        "Linear CKA between the outputs of every block of {target} (rows) and of {against} "
        "(columns): bright is alike; on the left with the usual estimator, which is too high where "
        "samples are few beside channels, on the right without that bias ({rows} features).",
    ),
    "adapters.png": (
        "Adapters",
        "The l2 norm of what an adapter adds, divided by that of the tied Linear's own output, "
        "mean over samples: 0 is an adapter that does nothing, as before training.",
    ),
    "instances.png": (
        "Single instances",
        "What is left of the {metric} when one block is skipped (replaced by identity), or runs "
        "without its adapters; an instance on the dotted line is not needed on these samples.",
    ),
}
_ABSENT: Final[Mapping[str, str]] = {
    "adapters.png": "The model has no adapters.",
    "instances.png": "Nothing was taken away: no new instances, no adapters, or `--skip none`.",
}


def make_page(report: DiagnoseReport) -> str:
    """Markdown that embeds the plots of the same folder; every number is in report.json."""
    other = report.against or report.model
    metric = find_metric(report.metric)
    words = {
        "clip": report.clip,
        "target": _code(report.model.target),
        "against": "itself" if report.against is None else _code(other.target),
        "rows": f"{report.cka.num_rows:,}",
        "metric": f"{metric.label} accuracy" if metric.is_share else metric.label,
    }
    lines = [f"# Diagnosis of {_code(report.model.target)}", "", *_table(report), ""]
    lines += [f"- {_escape(note)}" for note in report.notes]
    lines += [""] if report.notes else []
    for picture, (title, text) in _PLOTS.items():
        lines += [f"## {title}", ""]
        if picture in report.files:
            lines += [text.format_map(words), "", f"![{title}]({picture})", ""]
        else:
            lines += [_ABSENT[picture], ""]
    return "\n".join(lines)


def _table(report: DiagnoseReport) -> list[str]:
    models = [one for one in (report.model, report.against) if one is not None]
    rows = [
        ("model", [_code(one.target) for one in models]),
        ("architecture", [_escape(one.architecture) for one in models]),
        ("executed blocks", [str(len(one.blocks)) for one in models]),
        ("score", [_score(one, find_metric(report.metric)) for one in models]),
    ]
    lines = [f"| {name} | {' | '.join(cells)} |" for name, cells in rows]
    lines.insert(1, f"| --- |{' --- |' * len(models)}")
    unit = task_judged_by(report.metric).sample_unit
    told = (
        f"Measured on {report.num_samples:,} {unit} of {_code(report.data)} "
        f"({report.num_targets:,} targets), in float32 on {report.device}, in evaluation mode. All "
        "numbers are in [report.json](report.json). A block is named after the source block whose "
        "weights it runs (stage.block where there are several stages), with a ' for each further "
        "use of them."
    )
    return [*lines, "", told]


def _score(model: ModelReport, metric: Metric) -> str:
    score: ScoreReport = model.score
    if metric.is_share:
        return f"{metric.label} {metric.shown(score.value(metric.name))}, loss {score.loss:.4f}"
    return f"{metric.label} {metric.shown(score.value(metric.name), '.5g')}"


def _code(name: str) -> str:
    return f"`{_escape(name.replace('`', ''))}`"


def _escape(text: str) -> str:
    """One printable line that ends no cell of a table: names of files may hold anything."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return shown.replace("|", "\\|")
