"""The index of a bundle: what it was made from, how, and every tensor in it."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
)

from scalenet_cli.plan.layout import Layout, stage_layout
from scalenet_cli.plan.schema import MAX_BLOCKS, ExpansionPlan, Group, Strict
from scalenet_cli.reports.base import FlopReport, ParameterReport

FORMATS: Final = (1, 2)
MANIFEST: Final = "manifest.json"
Role = Literal["base", "instances", "carried"]


class TensorEntry(Strict):
    """One tensor of a file; ``sha256`` is of its raw little-endian bytes."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    non_finite: NonNegativeInt = Field(0, description="values that are NaN or infinite")

    @model_serializer(mode="wrap")
    def _without_zero(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Sound tensors are listed as format 1 lists them."""
        content: dict[str, Any] = serialize(self)
        if not self.non_finite:
            del content["non_finite"]
        return content


class FileEntry(Strict):
    """One file beside the manifest. Weight files are digested tensor by tensor."""

    role: Role
    num_bytes: NonNegativeInt
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    tensors: dict[str, TensorEntry] = Field(default_factory=dict)


class SourceEntry(Strict):
    """What the bundle was made from, and what was done to its keys."""

    reference: str
    kind: Literal["safetensors", "pytorch", "random"]
    digest: str = Field(description="of all base tensors, see digest_tensors")
    family: str
    architecture: str
    arguments: dict[str, Any]
    preprocessing: dict[str, Any]
    renamed: dict[str, str] = Field(description="our key -> the checkpoint's key")
    dropped: tuple[str, ...] = Field(description="derived buffers, and tensors beside the model")
    duplicates: dict[str, str] = Field(description="the checkpoint's key -> our key")


class StageEntry(Strict):
    """One stage of the layout: the source block of every position."""

    path: str
    depth: int = Field(ge=1, le=MAX_BLOCKS)
    sources: tuple[NonNegativeInt, ...] = Field(min_length=1, max_length=MAX_BLOCKS)
    scope: tuple[NonNegativeInt, ...]


class TrainedEntry(Strict):
    """What training did to a bundle: absent where nothing was trained."""

    steps: NonNegativeInt = Field(description="optimizer steps")
    groups: tuple[Group, ...] = Field(description="groups that were trained")
    num_classes: NonNegativeInt | None = Field(None, description="outputs of a classifier")
    new_head: bool = Field(False, description="the source's head was replaced: other classes")
    classes: dict[str, NonNegativeInt] = Field(
        default_factory=dict, description="class name -> target, where known"
    )
    template: Literal["chat", "alpaca", "none"] | None = Field(
        None, description="what wrote the instructions and conversations of a language model"
    )
    averaged: bool = Field(description="the tensors are an exponential moving average")
    metrics: dict[str, float] = Field(description="of the evaluation of these tensors")

    @property
    def changed_base(self) -> bool:
        """Whether the base files hold trained tensors, and no longer the source's.

        Norms and heads alone are small: they override the base's tensors among the instances'.
        """
        return "shared" in self.groups or "embeddings" in self.groups


class Manifest(Strict):
    """Everything about a bundle but its tensors."""

    format: Literal[1, 2]
    tool: str
    source: SourceEntry
    plan: ExpansionPlan
    seed: int
    layout: tuple[StageEntry, ...]
    ties: dict[str, tuple[str, ...]] = Field(description="canonical key -> keys in the model")
    files: dict[str, FileEntry]
    parameters: ParameterReport
    flops: FlopReport
    trained: TrainedEntry | None = None
    digest: str = Field("", description="sha256 of all the rest, see digest_content")

    @field_validator("plan", mode="before")
    @classmethod
    def _written_out(cls, plan: Any) -> Any:
        """Every key is written; where a plan has no ``start``, it is of the time of `copy`."""
        return {"start": "copy", **plan} if isinstance(plan, Mapping) else plan

    def to_layout(self) -> Layout:
        """The layout as the plan's own records."""
        return Layout(tuple(stage_layout(s.path, s.depth, s.sources, s.scope) for s in self.layout))

    def tensors(self, role: Role) -> dict[str, TensorEntry]:
        """All tensors of the files with one role."""
        return {
            key: entry
            for file in self.files.values()
            if file.role == role
            for key, entry in file.tensors.items()
        }


def needed_format(files: Mapping[str, FileEntry]) -> Literal[1, 2]:
    """The lowest format that can say what is known of the files: 2 has ``non_finite``."""
    tensors = (tensor for file in files.values() for tensor in file.tensors.values())
    return 2 if any(tensor.non_finite for tensor in tensors) else 1


def stage_entries(layout: Layout) -> tuple[StageEntry, ...]:
    """The layout as the manifest stores it."""
    return tuple(
        StageEntry(
            path=stage.path,
            depth=stage.depth,
            sources=tuple(slot.source for slot in stage.instances),
            scope=stage.scope,
        )
        for stage in layout.stages
    )


def digest_content(content: Mapping[str, Any]) -> str:
    """sha256 of a manifest's JSON without its ``digest``: keys sorted, no white space.

    It finds damage and edits, also of numbers that no tensor shows, such as an epsilon. It is no
    signature: whoever can write the manifest can write it anew.
    """
    rest = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def digest_tensors(tensors: Mapping[str, TensorEntry] | Iterable[tuple[str, TensorEntry]]) -> str:
    """One sha256 for a set of tensors, whatever file format or order they came in.

    It covers a line ``key dtype shape sha256`` per tensor, sorted by key.
    """
    items = tensors.items() if isinstance(tensors, Mapping) else tensors
    lines = sorted(
        f"{key} {entry.dtype} {','.join(map(str, entry.shape))} {entry.sha256}\n"
        for key, entry in items
    )
    return hashlib.sha256("".join(lines).encode()).hexdigest()
