"""How ``scalenet bench`` measures."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from scalenet_cli.errors import OptionError

Device = Literal["auto", "cpu", "cuda", "mps"]
Precision = Literal["fp32", "bf16", "fp16"]
Pass = Literal["inference", "training"]
# Which kind of pass, turns done, and turns in total.
Progress = Callable[[Pass, int, int], None]

BOTH: Final[tuple[Pass, ...]] = ("inference", "training")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How to measure: on what, how often, with which batch.

    Without ``batch_size`` and ``input_size`` the device and the model decide; without ``threads``
    PyTorch does.
    """

    batch_size: int | None = None
    input_size: int | None = None
    repeats: int = 10
    warmup: int = 3
    device: Device = "auto"
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = False
    passes: tuple[Pass, ...] = BOTH
    threads: int | None = None

    def __post_init__(self) -> None:
        amounts = {
            "batch_size": self.batch_size,
            "input_size": self.input_size,
            "repeats": self.repeats,
            "threads": self.threads,
        }
        for name, value in amounts.items():
            if value is not None and value < 1:
                raise OptionError(f"{name} is {value}, and has to be at least 1")
        if not self.passes:
            raise OptionError("no pass is left to measure")
