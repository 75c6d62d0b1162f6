"""How to train a causal language model."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from scalenet_cli.plan.schema import Count, Number
from scalenet_cli.plan.training import (
    MAX_BATCH,
    MAX_STEPS,
    Below1,
    CurrentName,
    NonNegative,
    Positive,
    TrainingRecipe,
)
from scalenet_cli.tasks.causal_lm.data.templates import Template


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
    template: Template = Field(
        "auto", description="how records become text; `auto` is the model's own chat template, or "
        "else Alpaca's",
    )  # fmt: skip
    train_on_prompt: bool = Field(False, description="the prompt's tokens count in the loss, too")
    packing: bool = Field(False, description="several records in one sequence, each by itself")
    group_by_length: bool = Field(True, description="records of like length share a batch")
    val_share: Below1 = Field(
        0.05, description="held out where the data have no split for validation"
    )

    @property
    def input_size(self) -> int | None:
        """See TrainingRecipe."""
        return self.max_length
