"""The training recipe: every number of a finetuning run, under timm's names where timm has one."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Final, Literal, Self, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from scalenet_cli.plan.schema import Count, Group, Index, Number, Strict


def _pair(value: object) -> object:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError("two numbers are needed here, as in [0.9, 0.99]")
    return value


T = TypeVar("T")
Float = Annotated[float, Number, Field(allow_inf_nan=False)]
Fraction = Annotated[Float, Field(ge=0, le=1)]
NonNegative = Annotated[Float, Field(ge=0)]
Positive = Annotated[Float, Field(gt=0)]
Below1 = Annotated[Fraction, Field(lt=1)]
Pair = BeforeValidator(_pair)
# What recipes and records of version 0.1.0 call the tasks.
_FORMER_NAMES: Final = {"images": "image-classification", "language": "causal-lm"}


def current_task_name(value: T) -> T | str:
    """The name of a task, also where a file has its former one; other values as they are.

    >>> current_task_name("images"), current_task_name("causal-lm")
    ('image-classification', 'causal-lm')
    """
    return _FORMER_NAMES.get(value, value) if isinstance(value, str) else value


CurrentName = BeforeValidator(current_task_name)
MAX_BATCH: Final = 1_000_000
MAX_STEPS: Final = 1_000_000_000
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
        if self.opt == "sgd" and self.momentum == 0:
            raise ValueError(
                "momentum is 0, but timm's sgd is Nesterov's, which needs some; `opt: momentum` "
                "with momentum 0 is plain gradient descent"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"accumulate {self.accumulate} does not divide batch_size {self.batch_size}"
            )
        return self

    @property
    def decay_per_layer(self) -> float | None:
        """Factor on the learning rate per block from the head down; None for 1."""
        return None

    @property
    def input_size(self) -> int | None:
        """Of a training sample, where the recipe decides it: tokens of a sequence."""
        return None

    @property
    def warmup_share(self) -> float:
        """The part of the run in which the learning rate rises."""
        if self.warmup_epochs is None:
            return self.default_warmup_share
        return self.warmup_epochs / self.epochs


Recipe = TrainingRecipe
# A key of TASKS.
TaskName = str
# Task -> its recipe; who has it hands it down.
RecipeTable = Mapping[str, type[TrainingRecipe]]
# Of recipes that name no task.
DEFAULT_TASK: Final[TaskName] = "image-classification"
