"""Fields of records that nothing reads: counted and named, so that no content is lost unseen."""

from collections import Counter
from collections.abc import Collection
from typing import Any, Final, final

from scalenet_cli.errors import shown
from scalenet_cli.tasks.causal_lm.data.record import Record

_MAX_NAMES: Final = 12
_MAX_NAME: Final = 60
# What says nothing; tables and converters fill columns with these.
_EMPTY: Final[tuple[Any, ...]] = (None, "", [], {}, "[]", "{}")


@final
class UnreadFields:
    """How many records have each field that was not read. Empty fields are not counted."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def add(self, record: Record, read: Collection[str]) -> None:
        """Counts what a record has beside the fields that were read of it."""
        for name, value in record.fields.items():
            if name not in read and value not in _EMPTY:
                self._counts[name] += 1

    def notes(self) -> tuple[str, ...]:
        """One line that names them, the most frequent first; nothing where all was read."""
        if not self._counts:
            return ()
        ordered = sorted(self._counts.items(), key=lambda found: -found[1])
        listed = [
            f"{shown(name, _MAX_NAME)} ({count:,} {'record' if count == 1 else 'records'})"
            for name, count in ordered[:_MAX_NAMES]
        ]
        if len(ordered) > _MAX_NAMES:
            listed.append(f"and {len(ordered) - _MAX_NAMES} more")
        return (f"fields that were not read: {', '.join(listed)}",)
