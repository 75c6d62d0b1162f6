"""What an evaluation of images reads, how it runs, and what it writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.requests import Device, Precision

CONFUSION: Final = "--confusion"
PREDICTIONS: Final = "--predictions"


@dataclass(frozen=True, slots=True)
class EvalOptions:
    """Which samples, how to prepare and run them, and which files to write.

    ``dataset`` is timm's name of a data set, empty for folders and tars. ``preprocessing`` has
    timm's names (``mean``, ``std``, ``interpolation``, ``crop_pct``, ``crop_mode``,
    ``input_size``) and overrides the model's own. ``workers`` is by default what the machine has,
    at most 8. A limit takes evenly spaced samples.
    """

    split: str = "validation"
    dataset: str = ""
    class_map: str | None = None
    limit: int | None = None
    batch_size: int = 256
    workers: int | None = None
    skip_corrupt: bool = False
    device: Device = "auto"
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    confusion: str | Path | None = None
    predictions: str | Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        least = {"limit": 1, "batch_size": 1, "workers": 0}
        found = {"limit": self.limit, "batch_size": self.batch_size, "workers": self.workers}
        for name, value in found.items():
            if value is not None and value < least[name]:
                raise OptionError(f"{name} is {value}, and has to be at least {least[name]}")
