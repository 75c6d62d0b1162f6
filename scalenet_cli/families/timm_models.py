"""What the timm families share: building without weights, and the numbers of the data pipeline."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, final

import timm
import torch
from accelerate import init_empty_weights
from timm.models import is_model_in_modules, list_models
from torch import nn
from torch.overrides import TorchFunctionMode

from scalenet_cli.errors import ArchitectureMismatch, UnknownArchitecture
from scalenet_cli.families import families_from_the_end, family
from scalenet_cli.families.architecture import Architecture
from scalenet_cli.families.base import StageRef
from scalenet_cli.families.timm_arguments import PREPROCESSING, check_arguments
from scalenet_cli.families.timm_checkpoints import TimmCheckpoints

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


@dataclass(frozen=True, slots=True)
class TimmKind:
    """What has to be known of a timm family to find and to build its models.

    Attributes:
        name: of the family.
        model_class: timm's class of all its models.
        stages: where the blocks of a model are; see Family.
        checkpoints: how its checkpoints are recognised.
    """

    name: str
    model_class: type[nn.Module]
    stages: Callable[[Any], tuple[StageRef, ...]]
    checkpoints: TimmCheckpoints

    def reads_tensors(self, keys: Collection[str]) -> bool:
        """See Family."""
        return all(sign in keys for sign in self.checkpoints.signs)


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


def timm_families() -> tuple[TimmKind, ...]:
    """Those of the table that stand on timm, in its order."""
    found = (one for one in families_from_the_end() if isinstance(one, TimmKind))
    return tuple(found)[::-1]


def timm_family(name: str) -> TimmKind:
    """The family of that name, which is one of timm's."""
    found = family(name)
    assert isinstance(found, TimmKind)
    return found
