"""A reporter for library use: nothing is shown."""

from collections.abc import Mapping
from typing import final

from scalenet_cli.training.training_task import Scores


@final
class Quiet:
    """Hears everything and says nothing."""

    def started(self, first_step: int, last_step: int) -> None:
        """See Reporter."""

    def stepped(self, step: int, values: Mapping[str, float]) -> None:
        """See Reporter."""

    def evaluated(self, step: int, scores: Scores) -> None:
        """See Reporter."""

    def note(self, text: str) -> None:
        """See Reporter."""
