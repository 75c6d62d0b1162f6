"""Models in memory: a bundle as a module and back, and surgery on a module that is there."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from scalenet_cli.bundle.digests import check_digests
from scalenet_cli.bundle.read import Bundle, map_tensors
from scalenet_cli.bundle.staging import check_output
from scalenet_cli.bundle.steady import read_steadily
from scalenet_cli.errors import BundleTieBroken, ManifestUnreadable, OptionError
from scalenet_cli.families import family as find_family
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import require_outside_run
from scalenet_cli.models.describe import (
    architecture_of,
    blaming,
    fit_layout,
    head_size,
    rescale,
)
from scalenet_cli.models.loaded import Loaded
from scalenet_cli.models.save import BundleSaver, write_model
from scalenet_cli.plan.load import load_plan, plan_from_dict
from scalenet_cli.plan.schema import GROUPS, ExpansionPlan, Group
from scalenet_cli.plan.train import resolve_train
from scalenet_cli.surgery import Expansion, expand, verify_ties
from scalenet_cli.surgery.assign import set_parameters
from scalenet_cli.surgery.groups import freeze
from scalenet_cli.surgery.guard import guard_ties
from scalenet_cli.surgery.values import compute_value

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


def save(
    model: nn.Module, output: str | Path, *, start: str | Path, force: bool = False, steps: int = 0
) -> None:
    """Writes a model that came from ``load(start)``, and was trained since, as a bundle.

    What changed is found by comparing tensors. Each is stored in the type that it has in ``start``;
    files in which nothing changed are linked. ``steps`` is added to those in the manifest.

    Raises:
        OutputExists: the output is there, and there is no ``force``; or it is part of a run.
        OutputInUse: another command is writing there.
        OptionError: the model is not that of ``start``.
        BundleError: ``start`` is damaged, or a tie of the model was broken.
    """
    output = Path(output)
    check_output(output, force=force)
    require_outside_run(output)
    tensors = dict(model.named_parameters())
    with sole_writer(output):
        check_output(output, force=force)  # once more: it may have appeared meanwhile
        write_model(model, load_bundle(start), tensors, output, steps=steps)


def _trained_groups(loaded: Loaded, train: Trainable) -> tuple[Group, ...]:
    if train != "plan":
        return GROUPS if train == "all" else ()
    trained = loaded.bundle.manifest.trained
    return loaded.train if trained is None else trained.groups


def load_bundle(path: str | Path, *, check: bool = True, num_classes: int | None = None) -> Loaded:
    """Like :func:`load`, with family, layout and groups; all Parameters require gradients.

    ``num_classes`` puts a new head on the model, of which the tensors have no data yet.

    Raises:
        BundleError: see load.
    """

    def read(bundle: Bundle) -> Loaded:
        if check:
            check_digests(bundle)
        with blaming(bundle.folder):
            return _build(bundle, num_classes)

    return read_steadily(Path(path), read)


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

    Nothing is frozen, because a tensor that both models share cannot be frozen in one of them:
    what the plan trains is for the training loop.

    ``family`` is a key of ``scalenet_cli.families.FAMILIES``.

    Raises:
        PlanError: the plan does not fit the model.
        UnknownArchitecture: no such family, or the model is of another one.
    """
    if not isinstance(plan, ExpansionPlan):
        plan = plan_from_dict(plan).plan
    kind = find_family(family)
    kind.require(model)
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
    guard_ties(expansion.model, kind)
    kind.save_with(expansion.model, BundleSaver(expansion.model, None))
    return expansion.model
