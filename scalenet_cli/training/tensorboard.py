"""A run's metrics for TensorBoard, beside whatever else reports them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from scalenet_cli.errors import MissingExtra, install_hint
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.training_task import Scores


@final
class TensorBoardReporter:
    """Writes event files once training starts, and passes everything on."""

    def __init__(self, folder: Path, inner: Reporter) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingExtra(
                "--tensorboard needs the package tensorboard, which is not installed",
                hint=install_hint("tensorboard"),
            ) from None
        self._make: Any = SummaryWriter
        self._writer: Any = None
        self._folder, self._inner = folder, inner

    def started(self, first_step: int, last_step: int) -> None:
        """Opens the event file; what an interrupted run wrote of later steps is hidden."""
        self._writer = self._make(str(self._folder), purge_step=first_step + 1)
        self._inner.started(first_step, last_step)

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """One point per metric."""
        self._add("train", values, step)
        self._inner.stepped(step, values)

    def evaluated(self, step: int, scores: Scores) -> None:
        """Metrics and loss of the validation data."""
        self._add("val", {**scores.metrics, "loss": scores.loss}, step)
        self._inner.evaluated(step, scores)

    def note(self, text: str) -> None:
        """Passed on."""
        self._inner.note(text)

    def close(self) -> None:
        """Nothing is left in memory."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, kind: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)
