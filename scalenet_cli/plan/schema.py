"""The plan: what to build. Frozen pydantic models that refuse what they do not understand."""

from collections.abc import Mapping
from functools import reduce
from operator import or_
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializeAsAny,
    Tag,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

GROUPS: Final[tuple["Group", ...]] = ("shared", "norms", "adapters", "gates", "embeddings", "head")
Group = Literal["shared", "norms", "adapters", "gates", "embeddings", "head"]
DEFAULT_TRAIN: Final[tuple[Group, ...]] = ("norms", "adapters", "gates")
MAX_BLOCKS: Final = 4096


def _no_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a number is needed here, not a yes or no")
    return value


Number = BeforeValidator(_no_boolean)
Index = Annotated[NonNegativeInt, Number]
Count = Annotated[PositiveInt, Number]


class Strict(BaseModel, extra="forbid", frozen=True):
    """Refuses unknown keys; cannot be changed after validation."""


class SourcesMapping(Strict):
    """The sources written out: one list, or one list per scaled stage."""

    sources: tuple[Index | tuple[Index, ...], ...] = Field(
        min_length=1, max_length=MAX_BLOCKS, description="source block of every position"
    )

    @field_validator("sources", mode="after")
    @classmethod
    def _flat_or_nested(
        cls, value: tuple[int | tuple[int, ...], ...]
    ) -> tuple[int | tuple[int, ...], ...]:
        if len({isinstance(entry, tuple) for entry in value}) > 1:
            raise ValueError("mix of numbers and lists; write one list, or one list per stage")
        if any(isinstance(entry, tuple) and not 0 < len(entry) <= MAX_BLOCKS for entry in value):
            raise ValueError(f"every list needs 1 to {MAX_BLOCKS} sources")
        return value


class StagesScope(Strict):
    """Reuse every block of these stages."""

    stages: tuple[Index, ...] = Field(min_length=1, description="0-based stages")


class BlocksScope(Strict):
    """Reuse these blocks; numbered through all stages of the model."""

    blocks: tuple[Index, ...] = Field(min_length=1, description="0-based blocks")


def _kind(*keys: str) -> Discriminator:
    """Tells a plain name from a list, and from a mapping that has one of the keys.

    With it pydantic reports what is wrong with the variant that was meant, not with each.
    """

    def choose(value: object) -> str:
        if isinstance(value, BaseModel):
            value = value.model_dump()
        if isinstance(value, Mapping) and keys:
            return next((key for key in keys if key in value), keys[0])
        return "list" if isinstance(value, list | tuple) and not keys else "name"

    return Discriminator(choose)


Mapping_ = Annotated[
    Annotated[Literal["interpolate", "stack"], Tag("name")]
    | Annotated[SourcesMapping, Tag("sources")],
    _kind("sources"),
]
Scope = Annotated[
    Annotated[Literal["all", "last-stage"], Tag("name")]
    | Annotated[StagesScope, Tag("stages")]
    | Annotated[BlocksScope, Tag("blocks")],
    _kind("stages", "blocks"),
]


class SharedPlan(Strict):
    """Which blocks are reused, and what an extra instance shares with its source."""

    scope: Scope | None = Field(
        None,
        description="`all`, `last-stage`, `{stages: [..]}` or `{blocks: [..]}`; by default `all` "
        "in one-stage models, `last-stage` in hierarchical ones",
    )
    weights: Literal["tied", "copied", "random", "averaged"] = Field(
        "tied", description="`copied`, `random` and `averaged` are the paper's untied baselines"
    )
    norms: Literal["untied", "tied"] = Field(
        "untied", description="`untied`: every instance has norms of its own, copied at the start"
    )


class _Dim(Strict):
    dim: Count = Field(16, description="inner width")


class AdapterSettings(Strict):
    """What a plan says of every kind of adapter; each kind has a class of its own, with its type.

    Where adapters of a kind sit beside a whole MLP or attention, and not beside its Linears,
    ``mlp`` and ``attention`` mean these, and a pattern is the name of one.
    """

    targets: Annotated[
        Annotated[Literal["mlp", "attention", "all-linear"], Tag("name")]
        | Annotated[tuple[str, ...], Field(min_length=1), Tag("list")],
        _kind(),
    ] = Field("mlp", description="`mlp`, `attention`, `all-linear`, or a list of name patterns")
    instances: Literal["all", "scaled", "new"] = Field(
        "all", description="`all` blocks, all instances of the reused ones, or added ones only"
    )
    type: str


class ParallelPlan(AdapterSettings, _Dim):
    """``up(activation(down(x)))`` beside a tied Linear."""

    type: Literal["parallel"] = "parallel"
    activation: Literal["gelu", "relu", "silu"] = Field("gelu", description="between down and up")


class LoraPlan(AdapterSettings, _Dim):
    """``up(down(x))`` beside a tied Linear."""

    type: Literal["lora"] = "lora"


class NoAdapterPlan(Strict):
    """No adapter at all."""

    type: Literal["none"] = "none"


# A plan's adapter.type -> the keys beside it. What a kind does is said in adapters.ADAPTERS.
ADAPTER_PLANS: Final[Mapping[str, type[AdapterSettings] | type[NoAdapterPlan]]] = {
    "parallel": ParallelPlan,
    "lora": LoraPlan,
    "none": NoAdapterPlan,
}


def adapter_plan_class(type_name: object) -> type[AdapterSettings] | type[NoAdapterPlan]:
    """The keys of an adapter of that type; of an unknown type, those of the default."""
    return ADAPTER_PLANS.get(type_name if isinstance(type_name, str) else "", ParallelPlan)


def _choose_adapter(value: object, _: object) -> AdapterSettings | NoAdapterPlan:
    if isinstance(value, AdapterSettings | NoAdapterPlan):
        return value
    if not isinstance(value, Mapping):
        raise PydanticCustomError(
            "adapter_type", "an adapter is a mapping such as {type: parallel, dim: 16}"
        )
    # An unknown type is reported at its own key, beside what else is wrong.
    return adapter_plan_class(value.get("type")).model_validate(value)


def _any_adapter() -> Any:
    """One of the classes of the table, for ``model_json_schema``."""
    return reduce(or_, ADAPTER_PLANS.values())


AdapterPlan = Annotated[
    AdapterSettings | NoAdapterPlan,
    WrapValidator(_choose_adapter, json_schema_input_type=_any_adapter()),
    SerializeAsAny(),
]


class ExpansionPlan(Strict):
    """A whole plan, version 1."""

    version: Annotated[Literal[1], Number] = Field(description="the version of this schema")
    mapping: Mapping_ = Field(description="`interpolate`, `stack`, or `{sources: [..]}`")
    factor: Annotated[float, Number] | None = Field(
        None,
        ge=1,
        le=MAX_BLOCKS,
        allow_inf_nan=False,
        description="how many times deeper the scaled part becomes",
    )
    depth: Count | None = Field(
        None, le=MAX_BLOCKS, description="or: how many blocks the scaled part has afterwards"
    )
    shared: SharedPlan = Field(default_factory=lambda: SharedPlan(), description="what is reused")
    adapter: AdapterPlan = Field(
        default_factory=lambda: ParallelPlan(), description="what each instance gets of its own"
    )
    start: Literal["copy", "average", "identity"] = Field(
        "identity",
        description="what an extra instance computes before training: by default nothing, so that "
        "the scaled model is its source; `copy` is the paper's",
    )
    train: (
        Annotated[
            Annotated[Literal["all"], Tag("name")]
            | Annotated[tuple[Group, ...], Field(min_length=1), Tag("list")],
            _kind(),
        ]
        | None
    ) = Field(
        None,
        description="`all`, or a list of groups; by default adapters, norms and, where "
        "there are any, gates",
    )
    drop_path: Annotated[float, Number] | None = Field(
        None,
        ge=0,
        lt=1,
        description="stochastic depth of the last block, linear from 0 at the first; by default "
        "the paper's for the size of the model",
    )

    @model_validator(mode="after")
    def _one_depth(self) -> Self:
        if isinstance(self.mapping, SourcesMapping):
            if self.factor is not None or self.depth is not None:
                raise ValueError("written-out sources fix the depth: leave out factor and depth")
        elif (self.factor is None) == (self.depth is None):
            raise ValueError("give exactly one of factor and depth")
        return self

    @property
    def has_gates(self) -> bool:
        """Whether instances of a reused block carry a gate."""
        return self.start != "copy"
