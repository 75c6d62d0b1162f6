"""Progress on stderr: bars on a terminal; of a run a line per evaluation elsewhere."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, final

import typer

from scalenet_cli.training.world import this_world

if TYPE_CHECKING:
    from scalenet_cli.training.training_task import Scores


Tick = Callable[[str, int, int], None]


@contextmanager
def bars() -> Iterator[Tick | None]:
    """A bar per kind of work, by name, where stderr is a terminal, and nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, TaskID

    with Progress(console=Console(stderr=True, markup=False), transient=True) as drawn:
        tasks: dict[str, TaskID] = {}

        def tick(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = drawn.add_task(name, total=total)
            drawn.update(tasks[name], completed=done)

        yield tick


@final
class TerminalReporter:
    """Shows what the main rank hears; see scalenet_cli.training.loop.Reporter."""

    def __init__(self) -> None:
        self.is_main = this_world().rank == 0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "TerminalReporter":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, first_step: int, last_step: int) -> None:
        """Where a run goes on, in words; a bar, where there is a terminal to draw it on."""
        if first_step == last_step:
            self._say(f"all {last_step:,} steps were done before; nothing is trained")
        elif first_step:
            self._say(f"goes on after step {first_step:,} of {last_step:,}")
        if not self.is_main or not sys.stderr.isatty():
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        columns = (
            TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )  # fmt: skip
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("", total=last_step, completed=first_step)
        self._bar.start()

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """The bar moves."""
        if self._bar is not None:
            text = f"loss {values['loss']:.4f}  lr {values['lr']:.2e}"
            self._bar.update(self._task, completed=step, description=text)

    def evaluated(self, step: int, scores: "Scores") -> None:
        """One line."""
        self._say(f"step {step}: {scores.text}")

    def note(self, text: str) -> None:
        """One line."""
        self._say(f"note: {text}")

    def _say(self, line: str) -> None:
        if not self.is_main:
            return
        if self._bar is not None:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            typer.echo(line, err=True)


@contextmanager
def batches_bar() -> Iterator[Callable[[int, int], None] | None]:
    """A bar where stderr is a terminal, and nothing elsewhere."""
    with bars() as tick:
        yield None if tick is None else partial(tick, "batches")
