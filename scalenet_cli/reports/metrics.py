"""What a model is judged by: names, labels, and which way is better."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of an evaluation.

    ``name`` is its key in reports and in metrics.jsonl, ``label`` what people call it, ``unit`` is
    empty where it has none. ``largest`` is the most that it can be, None without a limit.
    """

    name: str
    label: str
    unit: str = ""
    larger_is_better: bool
    largest: float | None = None

    @property
    def is_share(self) -> bool:
        """Whether it says how many of all samples are right, in per cent."""
        return self.unit == "%"

    @property
    def title(self) -> str:
        """For the head of a column, or beside an axis.

        >>> Metric(name="top1", label="top-1", unit="%", larger_is_better=True).title
        'top-1, %'
        """
        return f"{self.label}, {self.unit}" if self.unit else self.label

    def shown(self, value: float, form: str = ".2f") -> str:
        """A value with its unit, in a form of Python's format strings.

        >>> Metric(name="top1", label="top-1", unit="%", larger_is_better=True).shown(57.25)
        '57.25 %'
        """
        return f"{value:{form}} {self.unit}".rstrip()
