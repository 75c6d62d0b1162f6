"""Models with weights: a bundle or a checkpoint as an ordinary module."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from scalenet_cli.bundle.digests import check_digests
from scalenet_cli.bundle.read import Bundle, map_tensors
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.errors import BundleTieBroken, ManifestUnreadable, OptionError
from scalenet_cli.models.describe import DescribedModel, describe, head_size
from scalenet_cli.models.save_pretrained import BundleSaver
from scalenet_cli.models.target import Target, blaming_manifest, target_of
from scalenet_cli.plan.load import load_plan
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group
from scalenet_cli.surgery import Expansion, verify_ties
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.groups import freeze
from scalenet_cli.surgery.guard import guard_ties

Trainable = Literal["plan", "all", "none"]


def load(path: str | Path, *, check: bool = True, train: Trainable = "plan") -> nn.Module:
    """The scaled model of a bundle, in evaluation mode, as an ordinary ``nn.Module``.

    It is the library's own class (timm's, transformers'), so ``forward_features``,
    ``forward_intermediates`` and ``generate`` work on it. Weights are mapped, not read; ``check``
    reads them once to compare their digests. Of a run's folder, its ``best`` bundle is loaded. A
    bundle that is replaced meanwhile is read again, so that the model is never of two.

    ``train`` says which Parameters require gradients: with ``plan``, those of the groups that the
    plan trains or, where the bundle has been trained, of the groups that training trained.

    Raises:
        OptionError: ``train`` is another word.
        BundleError: not a bundle, damaged, or with a tie that does not hold.
    """
    if train not in get_args(Trainable):
        raise OptionError(
            f"train is {train!r}, but load knows {', '.join(get_args(Trainable))}",
            hint="to train other groups, set requires_grad on the loaded model's parameters",
        )
    loaded = load_bundle(path, check=check)
    freeze(loaded.model, loaded.groups, _trained_groups(loaded, train))
    guard_ties(loaded.model, loaded.family)
    loaded.family.save_with(loaded.model, BundleSaver(loaded.model, loaded))
    return loaded.model


def load_bundle(path: str | Path, *, check: bool = True) -> DescribedModel:
    """Like :func:`load`, with everything known about the model; all Parameters require gradients.

    Raises:
        BundleError: see load.
    """
    return read_steadily(Path(path), lambda bundle: load_target(target_of(bundle), check=check))


def load_target(target: Target, *, check: bool = True) -> DescribedModel:
    """The model of a target that is open, with its weights; see load_weights.

    The digests of a bundle are compared first: a damaged one is called damaged.
    """
    if check and target.bundle is not None:
        check_digests(target.bundle)
    return load_weights(describe(target), check=False)


def load_weights(
    described: DescribedModel, bundle: Bundle | None = None, *, check: bool = True
) -> DescribedModel:
    """Puts the weights into a described model, in place, and returns it in evaluation mode.

    They come from its own target, which has been opened with them, or from another ``bundle`` of
    the same model, such as that which a run started from. A bundle's tensors are mapped, not read;
    ``check`` compares their digests.

    Raises:
        BundleError, CheckpointError: the tensors are not those of the model.
    """
    bundle = bundle or described.target.bundle
    if bundle is None:
        return _load_source(described)
    if check:
        check_digests(bundle)
    with blaming_manifest(bundle.folder):
        _fill(described, bundle)
        described.family.finish(described.model, bundle.folder, frozenset(bundle.manifest.files))
    described.model.eval()
    return described


def _load_source(described: DescribedModel) -> DescribedModel:
    source = described.target.source
    assert source is not None
    set_parameters(described.model, {key: tensor.read() for key, tensor in source.tensors.items()})
    assert not any(one.is_meta for one in described.model.parameters()), "opened without weights"
    folder = described.target.files_folder() if source.carried else Path()
    described.family.finish(described.model, folder, [path.name for path in source.carried])
    described.model.eval()
    return described


def _trained_groups(loaded: DescribedModel, train: Trainable) -> tuple[Group, ...]:
    if train != "plan":
        return GROUPS if train == "all" else ()
    trained = loaded.bundle.manifest.trained
    return loaded.train if trained is None else trained.groups


def _fill(described: DescribedModel, bundle: Bundle) -> None:
    """The tensors of both parts of a bundle; then everything that its manifest says must hold."""
    expansion = described.expansion
    assert expansion is not None
    _require_same_plan(bundle)
    _fill_base(described, bundle, expansion)
    _fill_instances(described.model, bundle, expansion)
    _require_ties(described.model, bundle, expansion)


def _require_same_plan(bundle: Bundle) -> None:
    if "plan.yaml" not in bundle.manifest.files:
        raise ManifestUnreadable("it lists no plan.yaml")
    if _written_plan(bundle) != bundle.manifest.plan:
        raise ManifestUnreadable("its plan is not the one in plan.yaml")


def _written_plan(bundle: Bundle) -> ExpansionPlan:
    """The plan of ``plan.yaml``, as the version that wrote the bundle understood it.

    A plan that leaves ``start`` out meant `copy` once; only the manifest tells what it means here.
    """
    plan = load_plan(str(bundle.folder / "plan.yaml")).plan
    if "start" in plan.model_fields_set:
        return plan
    return plan.model_copy(update={"start": bundle.manifest.plan.start})


def _fill_base(described: DescribedModel, bundle: Bundle, expansion: Expansion) -> None:
    """The source's tensors under the first of their keys; ties put them under the others.

    Those of a head that training replaced are in the bundle, and in the model no more.
    """
    tensors = map_tensors(bundle, "base")
    _require_fit(described.source_shapes, tensors, "base")
    lacking = [key for key in described.source_shapes if key not in tensors]
    if lacking:
        raise ManifestUnreadable(f"no base tensor {lacking[0]}")
    replaced = head_size(bundle.manifest) is not None
    kept = {
        names[0]: tensors[key]
        for key, names in expansion.base_keys.items()
        if key in tensors and not (replaced and expansion.groups.get(names[0]) == "head")
    }
    set_parameters(described.model, kept)


def _fill_instances(model: nn.Module, bundle: Bundle, expansion: Expansion) -> None:
    """What belongs to instances, and what overrides the base."""
    own = map_tensors(bundle, "instances")
    missing = expansion.owned.keys() - own.keys()
    if missing:
        raise ManifestUnreadable(
            f"no instance tensor {sorted(missing)[0]}", where=str(bundle.folder)
        )
    shapes = {
        key: parameter.shape for key, parameter in model.named_parameters(remove_duplicate=False)
    }
    _require_fit(shapes, own, "instance")
    set_parameters(model, own)
    empty = [key for key, parameter in model.named_parameters() if parameter.is_meta]
    if empty:
        raise ManifestUnreadable(f"no tensor {empty[0]}", where=str(bundle.folder))


def _require_ties(model: nn.Module, bundle: Bundle, expansion: Expansion) -> None:
    listed = bundle.manifest.ties
    if listed != dict(expansion.ties):
        wrong = [k for k, v in expansion.ties.items() if listed.get(k) != v]
        raise BundleTieBroken(
            f"the manifest's ties are not those of its plan and layout; first: "
            f"{sorted({*wrong, *(listed.keys() - expansion.ties.keys())})[0]}",
            hint="the manifest was changed: expand the source again",
        )
    verify_ties(model, listed)


def _require_fit(
    shapes: Mapping[str, torch.Size], tensors: Mapping[str, torch.Tensor], kind: str
) -> None:
    """Names and shapes of a bundle's tensors are the model's."""
    for key, tensor in tensors.items():
        if key not in shapes or shapes[key] != tensor.shape:
            raise ManifestUnreadable(f"the {kind} tensor {key} does not fit the model")
