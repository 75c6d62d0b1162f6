"""Which data a run uses."""

from dataclasses import dataclass
from typing import Final

TRAIN_NAMES: Final = ("train", "training")
VAL_NAMES: Final = ("val", "valid", "validation", "eval", "evaluation")


def evenly_spaced(size: int, count: int) -> tuple[int, ...]:
    """So many of the positions 0..size-1, the first included.

    >>> evenly_spaced(10, 3)
    (0, 3, 6)
    """
    return tuple(order * size // count for order in range(count))


@dataclass(frozen=True, slots=True)
class DataOptions:
    """Which data, and how much of it.

    A limit takes evenly spaced samples, so that every class stays. Of images: ``dataset`` is timm's
    name of a data set, such as ``hfds/food101`` or ``torch/cifar10``, empty for folders and
    ``.tar`` files. Of text: ``val_data`` are records of another place than ``data``, and
    ``tokenizer`` is a folder, by default the bundle. With ``digest`` a run reads all images once
    more, to know whether their bytes are those that it began with.
    """

    data: str
    dataset: str = ""
    train_split: str = "train"
    val_split: str = "validation"
    limit_train: int | None = None
    limit_val: int | None = None
    class_map: str | None = None
    val_data: str | None = None
    tokenizer: str | None = None
    skip_corrupt: bool = False
    digest: bool = False
