"""What the timm families share: building without weights, and the numbers of the data pipeline."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import timm
import torch
from accelerate import init_empty_weights
from timm.layers import DropPath, set_reentrant_ckpt
from timm.models import is_model_in_modules, list_models
from timm.models._manipulate import reinit_non_persistent_buffers
from torch import nn
from torch.overrides import TorchFunctionMode

from scalenet_cli.errors import ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families import families_from_the_end, family
from scalenet_cli.families.base import (
    Anatomy,
    Architecture,
    InputUnit,
    OuterGroup,
    RandomInit,
    SourceRequest,
    StageRef,
    group_by_pattern,
    require_class,
)
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.source import Source
from scalenet_cli.families.timm_arguments import PREPROCESSING, check_arguments
from scalenet_cli.families.timm_checkpoints import TimmCheckpoints
from scalenet_cli.plan.layout import Layout

# What timm initialises with, all of it in place.
_VALUES: Final = frozenset(
    {
        torch.Tensor.uniform_,
        torch.Tensor.normal_,
        torch.Tensor.erfinv_,
        torch.Tensor.mul_,
        torch.Tensor.add_,
        torch.Tensor.clamp_,
        torch.Tensor.zero_,
        torch.Tensor.fill_,
    }
)


def family_of(name: str) -> str | None:
    """The family of a timm architecture, by the module that defines it."""
    base = name.split(".")[0]
    if base not in list_models():
        return None
    return next(
        (one.name for one in timm_families() if is_model_in_modules(base, one.checkpoints.modules)),
        None,
    )


def known_family(name: str) -> str:
    """The family of a timm architecture.

    Raises:
        UnknownArchitecture: not in timm, or in no family.
    """
    found = family_of(name)
    if found is None:
        from difflib import get_close_matches

        names = [name for one in timm_families() for name in one.checkpoints.names()]
        close = get_close_matches(name.split(".")[0], names, n=3, cutoff=0.5)
        raise UnknownArchitecture(
            f"no timm architecture of a supported family is called {name}",
            hint=f"did you mean {', '.join(close)}?"
            if close
            else "supported are timm's vision_transformer, deit and swin_transformer models",
        )
    return found


def build_timm(architecture: Architecture) -> nn.Module:
    """The timm model with parameters on the meta device and real buffers; see create_timm."""
    with init_empty_weights(include_buffers=False), _WithoutValues():
        return create_timm(architecture)


@final
class _WithoutValues(TorchFunctionMode):
    """Leaves out what only gives values to tensors that have none.

    On the meta device torch works ``clamp_`` out in Python, so that timm's initialisation took more
    than half of the time of building a model.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Collection[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in _VALUES and args and args[0].is_meta:
            return args[0]
        return func(*args, **(kwargs or {}))


def create_timm(architecture: Architecture) -> nn.Module:
    """The timm model with timm's initialisation.

    Raises:
        UnknownArchitecture: not a name of timm's registry.
        ArchitectureMismatch: timm refuses the arguments.
    """
    known = known_family(architecture.name)
    if known != architecture.family:
        raise ArchitectureMismatch(f"{architecture.name} is no {architecture.family} model")
    arguments = dict(architecture.arguments)
    check_arguments(architecture.name, timm_family(known).model_class, arguments)
    overlay = {key: arguments.pop(key) for key in PREPROCESSING if key in arguments}
    if "norm_eps" in arguments:
        arguments["norm_layer"] = partial(nn.LayerNorm, eps=float(arguments.pop("norm_eps")))
    try:
        model: nn.Module = timm.create_model(
            architecture.name,
            pretrained=False,
            pretrained_cfg_overlay=overlay or None,
            **arguments,
        )
        return model.eval()
    except (
        TypeError,
        ValueError,
        AssertionError,
        RuntimeError,
        LookupError,
        ArithmeticError,
    ) as error:
        raise ArchitectureMismatch(
            f"timm refuses the arguments of {architecture.name} "
            f"({', '.join(architecture.arguments)}): {error}",
            hint="--model-kwargs takes timm's own argument names, and norm_eps",
        ) from None


def preprocessing(model: Any) -> dict[str, Any]:
    """How images of this model are prepared, with timm's names."""
    config = model.pretrained_cfg
    return {key: config[key] for key in PREPROCESSING if config.get(key) is not None}


def timm_families() -> tuple["TimmFamily", ...]:
    """Those of the table that stand on timm, in its order."""
    found = (one for one in families_from_the_end() if isinstance(one, TimmFamily))
    return tuple(found)[::-1]


def timm_family(name: str) -> "TimmFamily":
    """The family of that name, which is one of timm's."""
    found = family(name)
    assert isinstance(found, TimmFamily)
    return found


@final
@dataclass(frozen=True, slots=True)
class TimmFamily:
    """A family of timm models; what differs between them is given as functions and a table."""

    name: str
    model_class: type[nn.Module]
    groups: tuple[tuple[str, OuterGroup], ...]
    stages: Callable[[Any], tuple[StageRef, ...]]
    anatomy: Callable[[Any], Anatomy]
    prepare: Callable[[Any], None]
    default_drop_path: Callable[[Any], float]
    repair: Callable[[Any, Layout], None]
    checkpoints: TimmCheckpoints
    task: str = "image-classification"

    @property
    def input_unit(self) -> InputUnit:
        """See Family."""
        return "pixels"

    @property
    def has_classifier(self) -> bool:
        """See Family."""
        return True

    @property
    def takes_source_options(self) -> bool:
        """See Family. A checkpoint file of timm's has no config."""
        return True

    def reads_config(self, config: Mapping[str, Any]) -> bool:
        """See Family. timm's own config.json; which family it is, the name in it decides."""
        return "architecture" in config

    def open_folder(
        self, folder: Path, config: Mapping[str, Any], request: SourceRequest
    ) -> Source:
        """See Family."""
        from scalenet_cli.families.sources.timm_sources import open_timm_folder

        return open_timm_folder(folder, config, request)

    def reads_tensors(self, keys: Collection[str]) -> bool:
        """See Family."""
        return all(sign in keys for sign in self.checkpoints.signs)

    def open_tensors(self, checkpoint: Checkpoint, request: SourceRequest) -> Source:
        """See Family."""
        from scalenet_cli.families.sources.timm_sources import open_timm_tensors

        return open_timm_tensors(checkpoint, request)

    def require(self, model: object) -> None:
        """See Family."""
        require_class(model, self.model_class, self.name)

    def build(self, architecture: Architecture) -> nn.Module:
        """See Family."""
        return build_timm(architecture)

    def group(self, key: str) -> OuterGroup | None:
        """See Family."""
        return group_by_pattern(key, self.groups)

    def shared_objects(self, model: nn.Module) -> Sequence[object]:
        """See Family."""
        return ()

    def drop_path(self, rate: float) -> nn.Module:
        """See Family. timm, too, leaves an Identity where the rate is 0."""
        return DropPath(rate) if rate > 0 else nn.Identity()

    def random_init(self, model: nn.Module) -> RandomInit:
        """Timm draws Linears and bias tables of these models with 0.02."""
        return RandomInit(std=0.02, norm=1.0)

    def replace_head(self, model: Any, num_classes: int) -> None:
        """See Family."""
        with torch.device("meta"):
            model.reset_classifier(num_classes)

    def checkpoint_gradients(self, model: Any) -> None:
        """See Family. Reentrant checkpoints lose the gradients of what is tied under DDP."""
        set_reentrant_ckpt(False)
        model.set_grad_checkpointing(True)

    def finish(self, model: nn.Module, folder: Path, files: Collection[str]) -> None:
        """Timm computes attention masks on the device of a norm, which was meta when it built."""
        reinit_non_persistent_buffers(model)

    def save_with(self, model: nn.Module, save: Callable[..., None]) -> None:
        """See Family. timm's models have no such method."""

    def default_input_size(self, model: Any) -> int:
        """See Family."""
        return int(model.patch_embed.img_size[0])

    def example_inputs(self, model: Any, size: int, device: str) -> dict[str, Any]:
        """See Family."""
        channels = model.patch_embed.proj.in_channels
        return {"x": torch.zeros(1, channels, size, size, device=device)}
