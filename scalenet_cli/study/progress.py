"""How far a study is, and who hears of it."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, final

from scalenet_cli.study.folder import Cell
from scalenet_cli.training.loop import Reporter
from scalenet_cli.training.training_task import Scores


class StudyReporter(Protocol):
    """Hears of cells."""

    def began(self, cell: str, order: int, num_cells: int, seconds_left: float | None) -> Reporter:
        """A cell starts or goes on; returns who hears what happens in it.

        ``seconds_left`` is of the whole study, where it is known. Of cells side by side only notes
        are heard.
        """
        ...

    def left(self, seconds: float) -> None:
        """How long the whole study still takes, after each evaluation."""
        ...

    def note(self, text: str) -> None:
        """Something that the user should hear of."""
        ...


@final
class Pace:
    """How long the rest takes, judged by the training FLOPs of the steps that were done here."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self._left = sum(cell.arm.cost.total_train_flops for cell in cells)
        self._done = 0
        self._steps: dict[str, int] = {}
        self._start: float | None = None

    def began(self, cell: Cell, step: int) -> None:
        """A cell starts, or goes on after a step that was done earlier."""
        if self._start is None:
            self._start = time.perf_counter()
        self._left -= step * _step_flops(cell)
        self._steps[cell.name] = step

    def reached(self, cell: Cell, step: int) -> None:
        """So many steps of a cell are done."""
        flops = (step - self._steps.get(cell.name, 0)) * _step_flops(cell)
        self._steps[cell.name] = step
        self._done += flops
        self._left -= flops

    def finished(self, cell: Cell) -> None:
        """Nothing is left of a cell: it may have ended before its last step."""
        steps = cell.arm.cost.steps
        self._left -= (steps - self._steps.get(cell.name, 0)) * _step_flops(cell)
        self._steps[cell.name] = steps

    @property
    def seconds_left(self) -> float | None:
        """None before anything is done."""
        if not self._done or self._start is None:
            return None
        return (time.perf_counter() - self._start) * self._left / self._done


def _step_flops(cell: Cell) -> int:
    return cell.arm.cost.train_flops * cell.arm.cost.batch_size


@final
class Paced:
    """Passes on what happens in a cell, and counts its steps; see training.loop.Reporter."""

    def __init__(
        self, cell: Cell, pace: Pace, inner: Reporter, left: Callable[[float], None]
    ) -> None:
        self._cell, self._pace, self._inner, self._left = cell, pace, inner, left

    def started(self, first_step: int, last_step: int) -> None:
        """See Reporter."""
        self._pace.began(self._cell, first_step)
        self._inner.started(first_step, last_step)

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""
        self._pace.reached(self._cell, step)
        self._inner.stepped(step, values)

    def evaluated(self, step: int, scores: Scores) -> None:
        """See Reporter."""
        self._inner.evaluated(step, scores)
        self._pace.reached(self._cell, step)
        seconds = self._pace.seconds_left
        if seconds is not None:
            self._left(seconds)

    def note(self, text: str) -> None:
        """See Reporter."""
        self._inner.note(text)
