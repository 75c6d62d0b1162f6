"""The study: a source, data, a recipe, seeds, and the arms that are to be compared."""

from collections import Counter
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from scalenet_cli.plan.schema import MAX_BLOCKS, Count, Index, Number, Strict

NAME: Final = r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
ArmKind = Literal["plan", "baseline", "base", "scratch"]


class StudyData(Strict):
    """Which data all arms are trained and evaluated on, under the names of finetune's options."""

    path: str = Field(min_length=1, description="a folder or file, timm's root, or hf:REPO")
    dataset: str = Field("", description="timm's name, such as torch/cifar10")
    train_split: str = Field("train", min_length=1, description="its folder")
    val_split: str = Field("validation", min_length=1, description="its folder")
    limit_train: Count | None = Field(None, description="use so many samples")
    limit_val: Count | None = Field(None, description="use so many samples")
    val_data: str | None = Field(None, description="text: records to validate on, elsewhere")
    tokenizer: str | None = Field(None, description="text: a folder, where the source has none")
    class_map: str | None = Field(None, description="a class name per line, by target")
    num_classes: Count | None = Field(None, description="where the data do not tell")
    reset_head: bool = Field(False, description="every arm trains a new head")
    skip_corrupt: bool = Field(False, description="leave damaged images out")


class ArmEntry(Strict):
    """One arm: what is done to the source before it is trained."""

    name: str = Field(pattern=f"^{NAME}$", description="letters, digits, - and _")
    plan: str | dict[str, Any] | None = Field(None, description="a recipe's name, a file, a plan")
    baseline: Literal["random", "stack", "interpolate", "swa"] | None = Field(
        None, description="untied blocks more, as in the paper"
    )
    base: Annotated[bool, Field(strict=True)] = Field(
        False, description="the source as it is, trained longer"
    )
    scratch: Annotated[bool, Field(strict=True)] = Field(
        False, description="as deep as `like`, untied, from random weights"
    )
    like: str | None = Field(None, description="the arm that `match` and `budget` refer to")
    match: Literal["parameters", "blocks"] = Field(
        "parameters", description="of a baseline: what is to be nearest to that of `like`"
    )
    blocks: Count | None = Field(
        None, le=MAX_BLOCKS, description="of a baseline: add so many blocks, whatever they count"
    )
    stage: Index | None = Field(
        None, description="of a baseline: where blocks are added; by default the only stage"
    )
    budget: Literal["epochs", "flops"] = Field(
        "epochs", description="`flops`: as many steps as the training compute of `like` pays for"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="entries of the recipe, for this arm"
    )

    @property
    def kind(self) -> ArmKind:
        """Which of the four it is."""
        if self.plan is not None:
            return "plan"
        return "baseline" if self.baseline else "base" if self.base else "scratch"

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [self.plan is not None, self.baseline is not None, self.base, self.scratch]
        if sum(given) != 1:
            raise ValueError(
                "an arm has exactly one of plan, baseline, `base: true` and `scratch: true`"
            )
        baseline = self.baseline is not None
        if not baseline and (self.blocks, self.stage, self.match) != (None, None, "parameters"):
            raise ValueError("blocks, stage and match are for baselines")
        if baseline and self.blocks is None and self.like is None:
            raise ValueError("a baseline needs `like`, the arm whose size it is to have, or blocks")
        if self.blocks is not None and self.match == "blocks":
            raise ValueError("match and blocks both say how many blocks are added: give one")
        if self.scratch and self.like is None:
            raise ValueError("an arm from scratch needs `like`, the arm whose depth it is to have")
        if self.budget == "flops" and self.like is None:
            raise ValueError("`budget: flops` needs `like`, the arm whose compute it is to have")
        if self.like is not None and self.kind in ("plan", "base") and self.budget == "epochs":
            raise ValueError("`like` says nothing here: it is for baselines, scratch and budgets")
        return self


class _StudyEntries(Strict):
    """What a study has beside its data and its arms, which have schemas of their own."""

    version: Annotated[Literal[1], Number] = Field(description="the version of this schema")
    title: str | None = Field(None, pattern=r"^[^\r\n]*$", description="one line")
    source: str = Field(min_length=1, description="a checkpoint, as `expand` takes it")
    arch: str | None = Field(None, description="timm architecture, where shapes do not tell")
    model_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="timm model arguments, norm_eps, preprocessing"
    )
    random_weights: bool = Field(False, description="draw the source's weights; for trials")
    recipe: str | dict[str, Any] | None = Field(
        None, description="a shipped name, a file, or entries; by default the paper's"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="entries that win over those of the recipe"
    )
    seeds: tuple[Index, ...] = Field(
        (0, 1, 2), min_length=1, description="a run of each arm for each"
    )


class Study(_StudyEntries):
    """A whole study, version 1."""

    data: StudyData = Field(description="what all arms are trained and evaluated on")
    arms: tuple[ArmEntry, ...] = Field(min_length=1, description="what is compared")

    @field_validator("seeds", mode="after")
    @classmethod
    def _different(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        repeated = [seed for seed, times in Counter(seeds).items() if times > 1]
        if repeated:
            raise ValueError(f"seed {repeated[0]} stands twice")
        return seeds


class StudyOutline(_StudyEntries):
    """A study of which the parts are still to be validated, each by its own schema."""

    data: dict[str, Any]
    arms: tuple[dict[str, Any], ...] = Field(min_length=1)
