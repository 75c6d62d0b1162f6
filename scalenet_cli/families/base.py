"""What a family has to say about its models. Nothing here imports torch at run time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, Protocol

from scalenet_cli.errors import UnknownArchitecture
from scalenet_cli.families.architecture import Architecture

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn

    from scalenet_cli.families.sources.checkpoint import Checkpoint
    from scalenet_cli.families.sources.source import Source
    from scalenet_cli.plan.layout import Layout

# What happens to a tensor that is not part of any block.
OuterGroup = Literal["norms", "embeddings", "head"]
# Of an image's side, or of a sequence's length.
InputUnit = Literal["pixels", "tokens"]


@dataclass(frozen=True, slots=True)
class StageRef:
    """A run of blocks with one width: where its container is, how deep and how wide it is."""

    path: str
    depth: int
    width: int


@dataclass(frozen=True, slots=True)
class Anatomy:
    """The parts of one block, as module paths inside it.

    Every parameter of a block lies below exactly one of ``attention``, ``mlp``, ``norms`` and
    ``others``; surgery refuses a block for which that does not hold.

    Attributes:
        attention, mlp: Linears, in the order of execution.
        closing: the last Linear of each residual branch; a gate goes here.
        norms: normalisation modules.
        others: further modules that are tied, such as layer scale or a bias table.
        drop_paths: stochastic depth modules; empty where the family has none.
        norm_after_closing: a norm follows the closing Linears, and cancels a factor on them.
        bias_after_closing: that norm has a bias, so a branch of zeros does not stay zero.
    """

    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    closing: tuple[str, ...]
    norms: tuple[str, ...]
    others: tuple[str, ...] = ()
    drop_paths: tuple[str, ...] = ()
    norm_after_closing: bool = False
    bias_after_closing: bool = False

    @property
    def linears(self) -> tuple[str, ...]:
        """All Linears of the block."""
        return self.attention + self.mlp

    @property
    def attention_module(self) -> tuple[str, ...]:
        """The whole attention: what its Linears lie in; none where that is the block itself."""
        return _common_module(self.attention)

    @property
    def mlp_module(self) -> tuple[str, ...]:
        """The whole MLP, likewise."""
        return _common_module(self.mlp)

    @property
    def tied(self) -> tuple[str, ...]:
        """All modules that instances share."""
        return self.linears + self.others


def _common_module(paths: Sequence[str]) -> tuple[str, ...]:
    parts = [path.split(".")[:-1] for path in paths]
    levels = takewhile(lambda names: len({*names}) == 1, zip(*parts, strict=False))
    common = ".".join(names[0] for names in levels)
    return (common,) if common else ()


@dataclass(frozen=True, slots=True)
class RandomInit:
    """Normal weights of this standard deviation, zero biases, norms at this value."""

    std: float
    norm: float


def group_by_pattern(key: str, groups: Sequence[tuple[str, OuterGroup]]) -> OuterGroup | None:
    """The group of the first pattern that a key matches."""
    return next((group for pattern, group in groups if fnmatchcase(key, pattern)), None)


def require_class(model: object, expected: "type[nn.Module]", family: str) -> None:
    """The model is of a family's class.

    Raises:
        UnknownArchitecture: it is of another one.
    """
    if not isinstance(model, expected):
        raise UnknownArchitecture(
            f"the family {family} describes models of the class {expected.__name__}, and this is "
            f"a {type(model).__name__}",
            hint="name the family that the model is of, and give the model itself: not what "
            "DistributedDataParallel, torch.compile or PEFT put around it",
        )


@dataclass(frozen=True, slots=True)
class SourceRequest:
    """How a checkpoint is to be opened.

    Attributes:
        arch, arguments: ``--arch`` and ``--model-kwargs``.
        weights: whether tensors are needed; without them nothing large is downloaded.
        random_seed: draws random weights instead.
    """

    arch: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights: bool = True
    random_seed: int | None = None


class BlockDescription(Protocol):
    """What surgery asks of a kind of model: stated facts, never probed ones.

    Paths and keys start at the root of the model that is given. A model that stands inside a host
    is described by :class:`~scalenet_cli.families.prefixed.PrefixedBlocks`.
    """

    def stages(self, model: "nn.Module") -> tuple[StageRef, ...]:
        """The runs of blocks, in the order of execution."""
        ...

    def anatomy(self, block: "nn.Module") -> Anatomy:
        """The parts of one block, after :meth:`prepare`."""
        ...

    def prepare(self, block: "nn.Module") -> None:
        """Turns tied parameters that are not part of a Linear into modules of their own.

        A shared Parameter comes apart under ``to_empty`` and ``load_state_dict(assign=True)``; a
        shared module does not. ``block`` is a clone: the source model is not touched.
        """
        ...

    def group(self, key: str) -> OuterGroup | None:
        """The group of a tensor outside all blocks; None where the family does not know it."""
        ...

    def shared_objects(self, model: "nn.Module") -> Sequence[object]:
        """Objects that a cloned block goes on sharing with its model, such as the HF config."""
        ...

    def drop_path(self, rate: float) -> "nn.Module":
        """A stochastic depth module."""
        ...

    def default_drop_path(self, model: "nn.Module") -> float:
        """The paper's stochastic depth for a model of this size."""
        ...

    def random_init(self, model: "nn.Module") -> RandomInit:
        """How the family draws the tensors of a new block."""
        ...

    def repair(self, model: "nn.Module", layout: "Layout") -> None:
        """Whatever in the model counts blocks: cache slots, config lists, feature tables."""
        ...


class Family(BlockDescription, Protocol):
    """A kind of model, and how its checkpoints are found, opened and used."""

    @property
    def name(self) -> str:
        """The key in FAMILIES."""
        ...

    @property
    def task(self) -> str:
        """What its models are trained for."""
        ...

    @property
    def input_unit(self) -> InputUnit:
        """What the size of an input is counted in; the side of an image, where it is pixels."""
        ...

    @property
    def has_classifier(self) -> bool:
        """Whether :meth:`replace_head` can give its models other classes."""
        ...

    @property
    def takes_source_options(self) -> bool:
        """Whether a checkpoint may need ``--arch`` and ``--model-kwargs``: its files say less."""
        ...

    def require(self, model: object) -> None:
        """Refuses a model that the family does not describe, with UnknownArchitecture."""
        ...

    def reads_config(self, config: Mapping[str, Any]) -> bool:
        """Whether a folder's config.json is of its kind; asked without importing torch if it can.

        The table is asked from its end, and who says yes first opens the folder.
        """
        ...

    def open_folder(
        self, folder: "Path", config: Mapping[str, Any], request: SourceRequest
    ) -> "Source":
        """The checkpoint in such a folder, under the model's own keys."""
        ...

    def reads_tensors(self, keys: Collection[str]) -> bool:
        """Whether the keys of a file without a config are those of its models."""
        ...

    def open_tensors(self, checkpoint: "Checkpoint", request: SourceRequest) -> "Source":
        """The checkpoint of such a file, under the model's own keys."""
        ...

    def build(self, architecture: Architecture) -> "nn.Module":
        """The model with parameters on the meta device and real buffers."""
        ...

    def replace_head(self, model: "nn.Module", num_classes: int) -> None:
        """Puts a new head, without data, in the place of the model's, in place."""
        ...

    def checkpoint_gradients(self, model: "nn.Module") -> None:
        """Blocks keep no activations, and run once more in the backward pass (non-reentrant)."""
        ...

    def finish(self, model: "nn.Module", folder: "Path", files: Collection[str]) -> None:
        """What a loaded model needs beyond its tensors; only ``files`` of the folder are read."""
        ...

    def save_with(self, model: "nn.Module", save: "Callable[..., None]") -> None:
        """Puts ``save`` in the place of the library's own method, where a model has one."""
        ...

    def image_preparation(self, model: "nn.Module") -> Mapping[str, Any]:
        """How images of a model are prepared, with timm's names; empty where inputs are tokens.

        ``input_size`` is (channels, height, width) as the model is built; ``fixed_input_size`` says
        that it takes no other. What is left out is as ImageNet's.
        """
        ...

    def default_input_size(self, model: "nn.Module") -> int:
        """Image side in pixels, or sequence length in tokens, that counts refer to."""
        ...

    def example_inputs(self, model: "nn.Module", size: int, device: str) -> dict[str, Any]:
        """Keyword arguments of one forward pass over one sample."""
        ...
