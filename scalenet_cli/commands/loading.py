"""Models in memory: a bundle as a module, and the surgery on a module that is there already."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from scalenet_cli.bundle.read import (
    Bundle,
    bundle_folder,
    check_digests,
    map_tensors,
    open_bundle,
)
from scalenet_cli.commands.opening import (
    architecture_of,
    blaming,
    fit_layout,
    head_size,
    rescale,
)
from scalenet_cli.errors import BundleTieBroken, ManifestUnreadable
from scalenet_cli.families import family as find_family
from scalenet_cli.families.base import Family
from scalenet_cli.plan.layout import Layout
from scalenet_cli.plan.load import load_plan, plan_from_dict
from scalenet_cli.plan.schema import ExpansionPlan, Group
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import Expansion, expand, verify_ties
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.values import compute_value


@dataclass(frozen=True, slots=True)
class Loaded:
    """A bundle as a model with weights, and what has been decided about it.

    ``base_keys`` says under which keys of the model the source's tensors are.
    """

    model: nn.Module
    family: Family
    layout: Layout
    groups: Mapping[str, Group]
    train: tuple[Group, ...]
    base_keys: Mapping[str, tuple[str, ...]]
    bundle: Bundle


def load(path: str | Path, *, check: bool = True) -> nn.Module:
    """The scaled model of a bundle, in evaluation mode, as an ordinary ``nn.Module``.

    It is the library's own class (timm's, transformers'), so ``forward_features``,
    ``forward_intermediates`` and ``generate`` work on it. Weights are mapped, not read; ``check``
    reads them once to compare their digests. Of a run's folder, its ``best`` bundle is loaded.

    Raises:
        BundleError: not a bundle, damaged, or with a tie that does not hold.
    """
    return load_bundle(path, check=check).model


def load_bundle(path: str | Path, *, check: bool = True, num_classes: int | None = None) -> Loaded:
    """Like :func:`load`, with family, layout and groups.

    ``num_classes`` puts a new head on the model, of which the tensors have no data yet.

    Raises:
        BundleError: see load.
    """
    bundle = open_bundle(bundle_folder(Path(path)))
    if check:
        check_digests(bundle)
    with blaming(bundle.folder):
        return _build(bundle, num_classes)


def _build(bundle: Bundle, num_classes: int | None) -> Loaded:
    manifest = bundle.manifest
    architecture = architecture_of(manifest)
    family = find_family(architecture.family)
    base = family.build(architecture)
    tensors = dict(map_tensors(bundle, "base"))
    _require_keys(base, tensors, "base")
    set_parameters(base, tensors)
    if "plan.yaml" not in manifest.files:
        raise ManifestUnreadable("it lists no plan.yaml")
    if _written_plan(bundle) != manifest.plan:
        raise ManifestUnreadable("its plan is not the one in plan.yaml")
    head = head_size(manifest) if num_classes is None else num_classes
    if head is not None:
        family.replace_head(base, head)
    described = rescale(base, architecture, family, manifest)
    expansion = described.expansion
    assert expansion is not None
    _fill_instances(bundle, described.model, expansion, new_head=num_classes is not None)
    family.finish(described.model, bundle.folder, frozenset(manifest.files))
    return Loaded(
        described.model.eval(),
        family,
        described.layout,
        described.groups,
        described.train,
        expansion.base_keys,
        bundle,
    )


def _written_plan(bundle: Bundle) -> ExpansionPlan:
    """The plan of ``plan.yaml``, as the version that wrote the bundle understood it.

    A plan that leaves ``start`` out meant `copy` once; only the manifest tells what it means here.
    """
    plan = load_plan(str(bundle.folder / "plan.yaml")).plan
    if "start" in plan.model_fields_set:
        return plan
    return plan.model_copy(update={"start": bundle.manifest.plan.start})


def _fill_instances(
    bundle: Bundle, model: nn.Module, expansion: Expansion, *, new_head: bool
) -> None:
    """Puts in what belongs to instances and overrides the base; then all ties must hold."""
    manifest = bundle.manifest
    own = dict(map_tensors(bundle, "instances"))
    if new_head:
        own = {key: own[key] for key in own if expansion.groups.get(key) != "head"}
    missing = expansion.owned.keys() - own.keys()
    if missing:
        raise ManifestUnreadable(
            f"no instance tensor {sorted(missing)[0]}", where=str(bundle.folder)
        )
    _require_keys(model, own, "instance", complete=False)
    set_parameters(model, own)
    empty = [key for key, parameter in model.named_parameters() if parameter.is_meta]
    if empty and not new_head:
        raise ManifestUnreadable(f"no tensor {empty[0]}", where=str(bundle.folder))
    if manifest.ties != dict(expansion.ties):
        wrong = [k for k, v in expansion.ties.items() if manifest.ties.get(k) != v]
        raise BundleTieBroken(
            f"the manifest's ties are not those of its plan and layout; first: "
            f"{sorted({*wrong, *(manifest.ties.keys() - expansion.ties.keys())})[0]}",
            hint="the manifest was changed: expand the source again",
        )
    verify_ties(model, manifest.ties)


def _require_keys(
    model: nn.Module, tensors: dict[str, torch.Tensor], kind: str, *, complete: bool = True
) -> None:
    """Names and shapes of a bundle's tensors are the model's."""
    shapes = {
        key: parameter.shape for key, parameter in model.named_parameters(remove_duplicate=False)
    }
    for key, tensor in tensors.items():
        if key not in shapes or shapes[key] != tensor.shape:
            raise ManifestUnreadable(f"the {kind} tensor {key} does not fit the model")
    lacking = [key for key, _ in model.named_parameters() if key not in tensors]
    if complete and lacking:
        raise ManifestUnreadable(f"no {kind} tensor {lacking[0]}")


def expand_module(
    model: nn.Module, plan: ExpansionPlan | dict[str, Any], *, family: str, seed: int = 0
) -> nn.Module:
    """A scaled version of a model in memory, which shares its tensors and leaves it as it is.

    Nothing is frozen: what the plan trains is for the training loop.

    ``family`` is a key of ``scalenet_cli.families.FAMILIES``.

    Raises:
        PlanError: the plan does not fit the model.
    """
    if not isinstance(plan, ExpansionPlan):
        plan = plan_from_dict(plan).plan
    kind = find_family(family)
    layout = fit_layout(model, plan, kind)
    expansion = expand(model, layout, plan, kind, seed=seed)
    resolve_train(plan, set(expansion.groups.values()))
    sources = dict(model.named_parameters())
    blank = dict(expansion.model.named_parameters())
    device = next(model.parameters()).device
    values = {
        key: compute_value(value, key, blank[key], seed=seed, read=sources.__getitem__).to(device)
        for key, value in expansion.owned.items()
    }
    set_parameters(expansion.model, values)
    return expansion.model
