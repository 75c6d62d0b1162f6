"""Numbers about a model, as the manifest stores them and as ``--json`` prints them."""

from typing import Literal

from pydantic import BaseModel, Field

# How it is known which classes a head answers. same: they have the names of its training; mapped:
# by a class map; assumed: names do not tell, and the data's are taken for them; new: the head is.
HeadClasses = Literal["same", "mapped", "assumed", "new"]


class Report(BaseModel, extra="forbid", frozen=True):
    """Facts that a command returns; ``model_dump_json`` is what ``--json`` prints."""


class InstanceParameters(Report):
    """Parameters of one executed block."""

    stage: int
    position: int
    source: int
    ordinal: int
    executed: int = Field(description="parameters that this instance uses")
    own: int = Field(description="parameters that no other instance uses")


class ParameterReport(Report):
    """Parameters of a model; each set of groups adds up to its total."""

    stored: int = Field(description="unique parameters")
    executed: int = Field(description="every pass counted")
    trainable: int = Field(description="parameters that the plan trains")
    groups: dict[str, int] = Field(description="stored, by group")
    executed_groups: dict[str, int]
    trainable_groups: dict[str, int]
    instances: tuple[InstanceParameters, ...]


class InstanceFlops(Report):
    """Work of one executed block."""

    stage: int
    position: int
    source: int
    ordinal: int
    macs: int
    flops: int


class FlopReport(Report):
    """Work of one forward pass over one sample; 1 multiply-add = 2 FLOPs.

    Matrix products, convolutions and attention are counted, as PyTorch's FlopCounterMode does;
    element-wise work is not. A causal mask does not halve attention.
    """

    input_size: int = Field(description="image side in pixels, or sequence length in tokens")
    unit: Literal["pixels", "tokens"]
    macs: int
    flops: int
    outside_macs: int = Field(description="embeddings, patch merging, head")
    outside_flops: int
    instances: tuple[InstanceFlops, ...]


class NonFiniteTensor(Report):
    """A tensor of a bundle that holds NaN or infinite values."""

    file: str = Field(description="file of the bundle")
    key: str = Field(description="the tensor's key in that file")
    non_finite: int = Field(description="values that are NaN or infinite")
    values: int = Field(description="all values of the tensor")
