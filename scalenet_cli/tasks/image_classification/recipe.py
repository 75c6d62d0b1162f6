"""How to train an image classifier."""

import re
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from scalenet_cli.plan.schema import Count, Index
from scalenet_cli.plan.training import (
    Below1,
    CurrentName,
    Float,
    Fraction,
    NonNegative,
    Pair,
    Positive,
    TrainingRecipe,
)

MAX_ERASED: Final = 1000


def _augmentation(value: str) -> str:
    # timm passes over a section without a number, and fails on others in the midst of training.
    if not _AUGMENTATION.fullmatch(value):
        raise ValueError("no auto-augment string of timm, such as rand-m9-mstd0.5-inc1")
    return value


_AUGMENTATION: Final = re.compile(
    r"rand(-(m|n|mmax|inc)\d{1,3}|-(p|mstd)\d{1,3}(\.\d+)?|-t(weights|3a|3aw))*"
    r"|augmix(-(m|w|d|b)\d{1,3}|-(a|mstd)\d{1,3}(\.\d+)?)*"
    r"|(original|originalr|v0|v0r|3a)(-mstd\d{1,3}(\.\d+)?)?"
)


class ImageRecipe(TrainingRecipe):
    """How to train an image classifier; the defaults are the paper's."""

    default_warmup_share: ClassVar[float] = 0.2
    task: Annotated[Literal["image-classification"], CurrentName] = Field(
        "image-classification", description="what is trained"
    )
    layer_decay: Annotated[Float, Field(gt=0, le=1)] | None = Field(
        None, description="factor per block from the head down; a tied tensor counts once, at the "
        "depth of its first use",
    )  # fmt: skip
    drop_path: Below1 | None = Field(
        None, description="stochastic depth of the last block; the plan's if unset"
    )
    smoothing: Below1 = Field(0.1, description="label smoothing")
    mixup: NonNegative = Field(0.8, description="alpha; 0 is off")
    cutmix: NonNegative = Field(1.0, description="alpha; 0 is off")
    mixup_prob: Fraction = Field(1.0, description="of mixup or cutmix in a batch")
    mixup_switch_prob: Fraction = Field(0.5, description="of cutmix where both are on")
    mixup_off_epoch: Index = Field(0, description="no mixup from this epoch on; 0 is never")
    aa: Annotated[str, AfterValidator(_augmentation)] | None = Field(
        "rand-m9-mstd0.5-inc1", description="timm's auto-augment string"
    )
    color_jitter: NonNegative = Field(0.4, description="used where `aa` is unset, as in timm")
    reprob: Fraction = Field(0.25, description="random erasing")
    remode: Literal["const", "rand", "pixel"] = Field("pixel", description="what erasing fills in")
    recount: Count = Field(1, le=MAX_ERASED, description="rectangles that are erased")
    hflip: Fraction = Field(0.5, description="horizontal flip")
    vflip: Fraction = Field(0.0, description="vertical flip")
    scale: Annotated[tuple[Fraction, Fraction], Pair] = Field(
        (0.08, 1.0), description="area of the random crop"
    )
    ratio: Annotated[tuple[Positive, Positive], Pair] = Field(
        (3 / 4, 4 / 3), description="its aspect ratio"
    )
    train_interpolation: Literal["bicubic", "bilinear", "random"] = Field(
        "bicubic", description="of the random crop"
    )
    no_aug: bool = Field(False, description="train on the images as evaluation sees them")
    channels_last: bool = Field(False, description="memory layout of the images")

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.scale[0] > self.scale[1] or self.scale[1] == 0 or self.ratio[0] > self.ratio[1]:
            raise ValueError("scale and ratio are ranges: the smaller number comes first")
        return self

    @property
    def decay_per_layer(self) -> float | None:
        """See TrainingRecipe."""
        return self.layer_decay
