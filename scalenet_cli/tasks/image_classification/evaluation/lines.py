"""What a terminal shows of an evaluation of images."""

from collections.abc import Iterator
from typing import Final

from scalenet_cli.reports.printable import printable
from scalenet_cli.tasks.image_classification.evaluation.report import EvalReport

_SHOWN: Final = 20


def report_lines(facts: EvalReport) -> Iterator[str]:
    """Numbers, and the images that were left out."""
    processes = f", {facts.num_processes} processes" if facts.num_processes > 1 else ""
    yield f"{facts.architecture} on {facts.data}: {facts.precision} on {facts.device}{processes}"
    rows = [
        ("images", f"{facts.num_images:,}"),
        ("top-1", f"{facts.top1:.2f} %  ({facts.correct1:,} images)"),
        ("top-5", f"{facts.top5:.2f} %  ({facts.correct5:,} images)"),
        ("loss", f"{facts.loss:.4f}"),
        ("corrupt", f"{facts.num_corrupt:,}"),
        ("images per second", f"{facts.images_per_second:,.1f}"),
    ]
    for name, value in rows:
        yield f"{name:<18} {value}"
    for image in facts.corrupt[:_SHOWN]:
        yield f"corrupt: {printable(image.name)}: {printable(image.reason)}"
    if len(facts.corrupt) > _SHOWN:
        yield f"corrupt: {len(facts.corrupt) - _SHOWN} more; --json lists them all"
    for name in facts.files:
        yield f"written to {name}"
