"""The training recipe: every number of a finetuning run, under timm's names where timm has one."""

import re
from typing import Annotated, ClassVar, Final, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from scalenet_cli.plan.schema import Count, Group, Index, Number, Strict


def _pair(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("two numbers are needed here, as in [0.9, 0.99]")
    return value


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
Float = Annotated[float, Number, Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
NonNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Below1 = Annotated[Fraction, Field(lt=1)]
Pair = BeforeValidator(_pair)
# What recipes and records of version 0.1.0 call the tasks.
_FORMER_NAMES: Final = {"images": "image-classification", "language": "causal-lm"}


def current_task_name(value: object) -> object:
    """The name of a task, also where a file has its former one; other values as they are.

    >>> current_task_name("images"), current_task_name("causal-lm")
    ('image-classification', 'causal-lm')
    """
    return _FORMER_NAMES.get(value, value) if isinstance(value, str) else value


CurrentName = BeforeValidator(current_task_name)
MAX_BATCH: Final = 1_000_000
MAX_STEPS: Final = 1_000_000_000
MAX_ERASED: Final = 1000
# Which optimizers take two betas, and an epsilon of their own, under these names in timm.
TAKES_BETAS: Final = ("adamw", "adam", "lamb", "lion", "nadamw")
TAKES_EPS: Final = ("adamw", "adam", "lamb", "nadamw", "adan")
Optimizer = Literal[
    "adamw", "adam", "sgd", "momentum", "lamb", "lion", "nadamw", "adan", "adafactor", "muon"
]


class TrainingRecipe(Strict):
    """How to train, whatever is trained; the defaults are the paper's for image classifiers."""

    default_warmup_share: ClassVar[float]
    version: Annotated[Literal[1], Number] = Field(1, description="the version of this schema")
    epochs: Count = Field(100, le=MAX_STEPS, description="passes over the training data")
    max_steps: Count | None = Field(
        None,
        le=MAX_STEPS,
        description="end after this many optimizer steps; the schedule is made for them",
    )
    batch_size: Count = Field(
        512, le=MAX_BATCH, description="samples per optimizer step, of all devices together"
    )
    accumulate: Count = Field(
        1, le=MAX_BATCH, description="micro-batches per optimizer step, on each device"
    )
    opt: Optimizer = Field("adamw", description="optimizer, by timm's name")
    opt_eps: Positive | None = Field(None, description="epsilon of the optimizer; its own if unset")
    opt_betas: Annotated[tuple[Below1, Below1], Pair] | None = Field(
        None, description="its own if unset"
    )
    momentum: Fraction = Field(0.9, description="of SGD and its kin")
    lr: Positive = Field(2e-4, description="peak learning rate")
    min_lr: NonNegative = Field(2e-6, description="learning rate at the end of the cosine")
    warmup_lr: NonNegative = Field(2e-7, description="learning rate at the first step")
    warmup_epochs: NonNegative | None = Field(
        None,
        description="linear, part of `epochs`; if unset a fifth of them, as the paper's "
        "20, and 3 % of a language model's",
    )
    weight_decay: NonNegative = Field(0.05, description="not of biases, norms, gates, positions")
    clip_grad: Positive | None = Field(5.0, description="largest norm of the gradient")
    train: (
        Annotated[
            Annotated[Literal["all"], Tag("name")]
            | Annotated[tuple[Group, ...], Field(min_length=1), Tag("list")],
            Discriminator(lambda value: "list" if isinstance(value, list | tuple) else "name"),
        ]
        | None
    ) = Field(None, description="groups to train; the plan's if unset")
    lr_scale: dict[Group, Positive] = Field(
        default_factory=dict,
        description="factor on the learning rate of a group, as in {gates: 10}; 1 if unset",
    )
    ema_decay: Below1 | None = Field(
        None, description="average of the trained tensors; it is what is evaluated and saved"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field("fp32", description="of autocast")
    gradient_checkpointing: bool = Field(False, description="less memory, one more forward pass")
    compile: bool = Field(False, description="torch.compile of each block")
    eval_epochs: Count = Field(1, description="epochs between two evaluations")
    eval_steps: Count | None = Field(None, description="optimizer steps between two; instead")
    save_steps: Count | None = Field(
        None, description="optimizer steps between two checkpoints, beside those of evaluations"
    )
    log_steps: Count = Field(10, description="optimizer steps between two lines of metrics")
    seed: Index = Field(0, description="of everything random")
    deterministic: bool = Field(False, description="refuse operations that differ between runs")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr:g} is larger than lr {self.lr:g}")
        if self.warmup_epochs is not None and self.warmup_epochs > self.epochs:
            raise ValueError(f"warmup_epochs {self.warmup_epochs:g} exceeds epochs {self.epochs}")
        for entry, value, takers in (
            ("opt_betas", self.opt_betas, TAKES_BETAS), ("opt_eps", self.opt_eps, TAKES_EPS),
        ):  # fmt: skip
            if value is not None and self.opt not in takers:
                raise ValueError(f"{entry} is not for {self.opt}, but for {', '.join(takers)}")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self

    @property
    def warmup_share(self) -> float:
        """The part of the run in which the learning rate rises."""
        if self.warmup_epochs is None:
            return self.default_warmup_share
        return self.warmup_epochs / self.epochs


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


class LanguageRecipe(TrainingRecipe):
    """How to train a causal language model; the defaults are for instruction data."""

    default_warmup_share: ClassVar[float] = 0.03
    task: Annotated[Literal["causal-lm"], CurrentName] = Field(
        "causal-lm", description="what is trained"
    )
    epochs: Count = Field(3, le=MAX_STEPS, description="passes over the training data")
    batch_size: Count = Field(
        128, le=MAX_BATCH, description="sequences per optimizer step, of all devices together"
    )
    min_lr: NonNegative = Field(0.0, description="learning rate at the end of the cosine")
    warmup_lr: NonNegative = Field(0.0, description="learning rate at the first step")
    weight_decay: NonNegative = Field(0.0, description="not of biases, norms, gates")
    clip_grad: Positive | None = Field(1.0, description="largest norm of the gradient")
    max_length: Annotated[int, Number, Field(ge=2, le=2**20)] | None = Field(
        None,
        description="tokens of a sequence, what is longer is cut; if unset 512, or the model's "
        "context where that is shorter",
    )
    template: Literal["auto", "chat", "alpaca", "none"] = Field(
        "auto", description="how records become text; `auto` is the model's own chat template, or "
        "else Alpaca's",
    )  # fmt: skip
    train_on_prompt: bool = Field(False, description="the prompt's tokens count in the loss, too")
    packing: bool = Field(False, description="several records in one sequence, each by itself")
    group_by_length: bool = Field(True, description="records of like length share a batch")
    val_share: Below1 = Field(
        0.05, description="held out where the data have no split for validation"
    )


Recipe = ImageRecipe | LanguageRecipe
# A key of TASKS.
TaskName = str
RECIPES: Final[dict[TaskName, type[ImageRecipe] | type[LanguageRecipe]]] = {
    "image-classification": ImageRecipe,
    "causal-lm": LanguageRecipe,
}
# Of recipes that name no task.
DEFAULT_TASK: Final[TaskName] = "image-classification"
