"""What ``scalenet eval`` reports of a model for images."""

from typing import Any

from pydantic import Field

from scalenet_cli.reports.base import HeadClasses, Report
from scalenet_cli.tasks.requests import Precision


class CorruptImage(Report):
    """An image that was left out."""

    name: str = Field(description="its path in the data")
    reason: str = Field(description="what the decoder says")


class EvalReport(Report):
    """What a model answers to the images of one split."""

    target: str = Field(description="as it was given")
    data: str = Field(description="the folder, file or data set that was read")
    architecture: str = Field(description="timm's name")
    num_images: int = Field(description="images that were counted, each once")
    num_corrupt: int = Field(description="images that were left out, with `--skip-corrupt`")
    num_classes: int = Field(description="outputs of the model")
    classes: HeadClasses = Field(
        description="`same`: the names of the data's classes are the model's; `mapped`: by a class "
        "map; `assumed`: names do not tell"
    )
    correct1: int = Field(description="images whose target has the highest logit")
    correct5: int = Field(description="images whose target is among the five highest logits")
    top1: float = Field(description="per cent")
    top5: float = Field(description="per cent; of fewer than five classes all are among the five")
    loss: float = Field(description="mean cross entropy, computed in float64 of the logits")
    seconds: float = Field(description="of the main process, reading and decoding included")
    images_per_second: float = Field(description="`num_images` / `seconds`, of all processes")
    device: str = Field(description="kind of device")
    num_processes: int = Field(description="processes that shared the images")
    precision: Precision = Field(description="of autocast")
    batch_size: int = Field(description="images of one process at a time")
    preprocessing: dict[str, Any] = Field(description="as it was applied, with timm's names")
    corrupt: tuple[CorruptImage, ...] = Field(description="the images that were left out")
    files: tuple[str, ...] = Field(description="what was written")
    notes: tuple[str, ...] = Field(description="decisions that the user should hear of")
