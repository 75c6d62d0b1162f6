"""Which timm architecture a checkpoint is, and its tensors under timm's keys."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import timm
import torch
from timm.models import list_models
from timm.models.swin_transformer import checkpoint_filter_fn as filter_swin
from timm.models.vision_transformer import checkpoint_filter_fn as filter_vit
from torch import nn

from scalenet_cli.errors import (
    AmbiguousArchitecture,
    ArchitectureMismatch,
    UnknownArchitecture,
    UnsupportedTensor,
)
from scalenet_cli.families.base import Architecture
from scalenet_cli.families.sources.checkpoint import Checkpoint
from scalenet_cli.families.sources.geometry import Geometry, swin_geometry, vit_geometry
from scalenet_cli.families.sources.source import Source, check_tensors
from scalenet_cli.families.sources.tensors import FLOATS, TORCH_NAMES, SourceTensor
from scalenet_cli.families.timm_models import (
    MODULES,
    build_timm,
    known_family,
    preprocessing,
)

GENERIC: Final[Mapping[str, str]] = {
    "vit": "vit_base_patch16_224",
    "distilled": "deit_base_distilled_patch16_224",
    "swin": "swin_base_patch4_window7_224",
}
DERIVED: Final = ("relative_position_index", "attn_mask")


def identify_timm(
    checkpoint: Checkpoint, arch: str | None, arguments: Mapping[str, Any]
) -> tuple[Architecture, nn.Module, tuple[str, ...]]:
    """The architecture of a checkpoint, its model without weights, and notes for the user.

    Shapes decide what they can; ``arch`` and ``arguments`` decide the rest.

    Raises:
        UnknownArchitecture: keys of no supported family.
        AmbiguousArchitecture: several architectures fit, or the heads cannot be known.
        ArchitectureMismatch: the named architecture and the tensors disagree.
    """
    geometry = _geometry(checkpoint)
    named = arch or checkpoint.architecture
    if named is not None:
        return _named(checkpoint, geometry, named, arguments)
    if geometry.heads_known or "num_heads" not in arguments:
        fitting = _fitting(checkpoint, geometry, arguments)
        if fitting:
            return _only_meaning(checkpoint, fitting)
    return _generic(checkpoint, geometry, arguments)


def convert(checkpoint: Checkpoint, architecture: Architecture, model: nn.Module) -> Source:
    """The checkpoint's tensors under timm's keys, as timm's own filter renames them.

    Raises:
        ArchitectureMismatch: tensors are missing, unexpected or of another shape.
        UnsupportedTensor: weights that are not floating point.
    """
    tensors, renamed, dropped = _rename(checkpoint, architecture.family, model)
    check_tensors(model, tensors, checkpoint.where)
    integral = next((key for key, t in tensors.items() if t.spec.dtype not in FLOATS), None)
    if integral:
        raise UnsupportedTensor(
            f"{integral} has the type {tensors[integral].spec.dtype}",
            where=checkpoint.where,
            hint="quantised weights cannot be scaled: use the checkpoint they were made from",
        )
    untouched = not dropped and not renamed
    return Source(
        architecture=architecture,
        tensors=tensors,
        renamed=renamed,
        dropped=dropped,
        verbatim=checkpoint.files if untouched else (),
        preprocessing=preprocessing(model),
    )


def _geometry(checkpoint: Checkpoint) -> Geometry:
    keys = checkpoint.tensors.keys()
    if "model.layers.0.self_attn.q_proj.weight" in keys:
        raise UnknownArchitecture(
            "the tensors are a Hugging Face decoder's, but there is no config.json",
            where=checkpoint.where,
            hint="give the folder that holds config.json and the weights",
        )
    if "patch_embed.proj.weight" in keys and "blocks.0.attn.qkv.weight" in keys:
        return vit_geometry(checkpoint)
    if "layers.0.blocks.0.attn.relative_position_bias_table" in keys:
        return swin_geometry(checkpoint)
    raise UnknownArchitecture(
        f"the keys are of no supported family; the first are {', '.join(list(keys)[:4])}",
        where=checkpoint.where,
        hint="supported are timm ViT, DeiT and Swin checkpoints and Hugging Face decoder folders",
    )


def _named(
    checkpoint: Checkpoint, geometry: Geometry, name: str, arguments: Mapping[str, Any]
) -> tuple[Architecture, nn.Module, tuple[str, ...]]:
    family = known_family(name)
    if family != geometry.family:
        raise ArchitectureMismatch(
            f"{name} is a {family} model, but the tensors are a {geometry.family} model's",
            where=checkpoint.where,
        )
    architecture = Architecture(family, name, {**geometry.head, **arguments})
    model = build_timm(architecture)
    if _mismatch(checkpoint, architecture, model) is None:
        return architecture, model, ()
    if "num_heads" in arguments or (geometry.heads_known and arguments):
        # Whoever states the heads states a model of their own; the shapes give the rest.
        architecture = Architecture(family, name, {**geometry.arguments, **arguments})
        model = build_timm(architecture)
    problem = _mismatch(checkpoint, architecture, model)
    if problem is not None:
        raise problem
    return architecture, model, ()


def _mismatch(
    checkpoint: Checkpoint, architecture: Architecture, model: nn.Module
) -> ArchitectureMismatch | None:
    try:
        check_tensors(model, _rename(checkpoint, architecture.family, model)[0], checkpoint.where)
    except ArchitectureMismatch as problem:
        return problem
    return None


def _fitting(
    checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]
) -> list[tuple[Architecture, nn.Module]]:
    """Every architecture of timm's registry whose tensors have these names and shapes."""
    names = sorted({n for m in MODULES[geometry.family] for n in list_models(module=m)})
    fitting = []
    for name in names:
        if not geometry.may_be(name):
            continue
        architecture = Architecture(geometry.family, name, {**geometry.head, **arguments})
        model = build_timm(architecture)
        if _mismatch(checkpoint, architecture, model) is None:
            fitting.append((architecture, model))
    return fitting


def _only_meaning(
    checkpoint: Checkpoint, fitting: Sequence[tuple[Architecture, nn.Module]]
) -> tuple[Architecture, nn.Module, tuple[str, ...]]:
    """The one that is meant; architectures that compute and prepare images alike are one."""
    chosen = list(fitting)
    note: tuple[str, ...] = ()
    meanings = {_meaning(model) for _, model in chosen}
    if len(meanings) > 1 and checkpoint.wrapper == ("model",) and not checkpoint.beside:
        # The official DeiT and Swin releases are {'model': ...} and nothing else.
        official = [pair for pair in chosen if _is_official(pair[0].name)]
        if len({_meaning(model) for _, model in official}) == 1:
            others = ", ".join(a.name for a, _ in chosen if a.name != official[0][0].name)
            chosen, meanings = official, set()
            note = (
                f"read as {official[0][0].name}, whose authors publish {{'model': ...}} files; "
                f"--arch chooses another of the same shapes ({others})",
            )
    if len(meanings) > 1:
        raise AmbiguousArchitecture(
            f"{len(chosen)} architectures have these shapes, and differ in what shapes do not "
            f"show: {', '.join(architecture.name for architecture, _ in chosen)}",
            where=checkpoint.where,
            hint=f"say which it is, for example --arch {chosen[0][0].name}",
        )
    return (*chosen[0], note)


def _meaning(model: nn.Module) -> str:
    """Everything about a model that its tensors' shapes do not show."""
    heads = [m.num_heads for m in model.modules() if isinstance(getattr(m, "num_heads", None), int)]
    return f"{model!r} {heads} {model.global_pool} {sorted(preprocessing(model).items())}"


def _is_official(name: str) -> bool:
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return config is not None and str(config.url or "").endswith(".pth")


def _generic(
    checkpoint: Checkpoint, geometry: Geometry, arguments: Mapping[str, Any]
) -> tuple[Architecture, nn.Module, tuple[str, ...]]:
    """A geometry that timm has no name for: its family's general class with arguments."""
    width = int(geometry.arguments["embed_dim"])
    if not geometry.heads_known and "num_heads" not in arguments:
        possible = [heads for heads in range(1, width + 1) if width % heads == 0]
        raise AmbiguousArchitecture(
            f"no architecture of timm has these shapes ({geometry.summary}), and shapes do not "
            f"show the number of heads: {', '.join(map(str, possible))} would fit",
            where=checkpoint.where,
            hint="say it, for example --model-kwargs num_heads=4; norm_eps, mean and std are "
            "timm's defaults unless --model-kwargs gives them too",
        )
    name = GENERIC["distilled" if geometry.distilled else geometry.family]
    architecture = Architecture(geometry.family, name, {**geometry.arguments, **arguments})
    model = build_timm(architecture)
    problem = _mismatch(checkpoint, architecture, model)
    if problem is not None:
        raise problem
    assumed = [key for key in ("norm_eps", "mean", "std") if key not in arguments]
    note = f"not in timm's registry ({geometry.summary}): built from its shapes"
    if assumed:
        note += f"; {', '.join(assumed)} are assumed to be timm's defaults"
    return architecture, model, (note,)


def _rename(
    checkpoint: Checkpoint, family: str, model: nn.Module
) -> tuple[dict[str, SourceTensor], dict[str, str], tuple[str, ...]]:
    """Timm key -> tensor, timm key -> the author's key where it differs, and derived buffers."""
    stand_ins = {
        key: torch.empty(
            tensor.spec.shape, dtype=getattr(torch, TORCH_NAMES[tensor.spec.dtype]), device="meta"
        )
        for key, tensor in checkpoint.tensors.items()
    }
    filter_keys: Callable[..., dict[str, torch.Tensor]] = filter_swin
    options = {}
    if family == "vit":
        filter_keys = filter_vit
        options = {"adapt_layer_scale": any("gamma_" in key for key in stand_ins)}
    try:
        with warnings.catch_warnings():
            # On a wrong candidate timm resamples tables; what it says about that is not for users.
            warnings.simplefilter("ignore")
            converted = filter_keys(dict(stand_ins), model, **options)
    except (RuntimeError, LookupError, ValueError, AttributeError, TypeError) as error:
        raise ArchitectureMismatch(
            f"timm cannot read these tensors as this architecture: {error}", where=checkpoint.where
        ) from None
    author_keys = {id(tensor): key for key, tensor in stand_ins.items()}
    tensors, renamed = {}, {}
    for key, tensor in converted.items():
        author = author_keys.get(id(tensor))
        if author is None:
            raise ArchitectureMismatch(
                f"{key} would have to be resampled to fit the architecture",
                where=checkpoint.where,
                hint="give the image size and patch size of the checkpoint with --model-kwargs",
            )
        tensors[key] = checkpoint.tensors[author]
        if author != key:
            renamed[key] = author
    kept = {renamed.get(key, key) for key in tensors}
    dropped = tuple(key for key in checkpoint.tensors if key not in kept)
    return tensors, renamed, dropped
