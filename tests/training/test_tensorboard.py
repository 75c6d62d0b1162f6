"""Event files hold what metrics.jsonl holds."""

from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from scalenet_cli.training.quiet import Quiet
from scalenet_cli.training.tensorboard import TensorBoardReporter
from tests.training.runs import PLAIN, metrics, train


def test_event_files_hold_the_metrics(bundle: Path, data: Path, tmp_path: Path) -> None:
    reporter = TensorBoardReporter(tmp_path / "run" / "tensorboard", Quiet())
    train(bundle, data, tmp_path / "run", {**PLAIN, "max_steps": 2}, reporter=reporter)
    reporter.close()
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    lines = metrics(tmp_path / "run")
    for tag, key in (("train/loss", "loss"), ("val/top1", "top1")):
        found = [(event.step, round(event.value, 4)) for event in events.Scalars(tag)]
        assert found == [(line["step"], round(line[key], 4)) for line in lines if key in line]
