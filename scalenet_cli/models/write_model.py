"""A model in memory as a bundle: what a training loop of one's own ends with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import nn

from scalenet_cli.bundle.read import map_tensors, open_bundle
from scalenet_cli.bundle.trained import write_trained
from scalenet_cli.errors import OptionError, SourceMismatch
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.schema import GROUPS
from scalenet_cli.surgery import verify_ties

UNWRAPPED: Final = (
    "pass the model that scalenet_cli.load(start) gave, without what was put around it since "
    "(DDP: model.module; adapters of PEFT cannot be stored in a bundle)"
)


def write_model(
    model: nn.Module,
    start: DescribedModel,
    tensors: Mapping[str, torch.Tensor],
    output: Path,
    *,
    steps: int = 0,
) -> None:
    """The model as a bundle, of which only what changed since ``start`` is written.

    The caller is the sole writer of ``output``.

    ``tensors`` are the model's parameters by their first names, gathered where need be.

    Raises:
        OptionError, BundleError: see :func:`scalenet_cli.save`.
    """
    stored = _stored(start)
    require_same_tensors(tensors, stored, start.bundle.folder)
    verify_ties(model, start.bundle.manifest.ties)
    changed = {}
    for key, tensor in tensors.items():
        value = tensor.detach().to("cpu", stored[key].dtype)
        if not torch.equal(value, stored[key]):
            changed[key] = value
    subject = _subject(start, changed)
    base, instances = subject.parts(changed)
    entry = start.bundle.manifest.trained
    if changed or steps:
        entry = subject.trained_entry(steps, {}, averaged=False)
    groups = ", ".join(subject.train)
    story = f"Trained outside of scalenet: {groups}." if changed else "Nothing was trained."
    manifest = subject.manifest.model_copy(update={"trained": entry})
    write_trained(output, start.bundle, manifest, base=base, instances=instances, story=story)


def _stored(start: DescribedModel) -> dict[str, torch.Tensor]:
    """What the bundle holds, by the first names of its model."""
    if open_bundle(start.bundle.folder).manifest.digest != start.bundle.manifest.digest:
        raise SourceMismatch(
            "another bundle is there now than the one that the model was loaded from",
            where=str(start.bundle.folder),
            hint="put the bundle back, or save the tensors with torch.save(model.state_dict())",
        )
    base = map_tensors(start.bundle, "base")
    own = map_tensors(start.bundle, "instances")
    return {start.base_keys[key][0]: tensor for key, tensor in base.items()} | dict(own)


def _subject(start: DescribedModel, changed: Mapping[str, torch.Tensor]) -> TrainedModel:
    groups = {start.groups[key] for key in changed}
    before = start.bundle.manifest.trained
    return TrainedModel(
        model=start.model,
        family=start.family,
        layout=start.layout,
        groups=start.groups,
        train=tuple(group for group in GROUPS if group in groups),
        base_keys=start.base_keys,
        bundle=start.bundle,
        manifest=start.bundle.manifest,
        num_classes=before.num_classes if before else None,
        classes=before.classes if before else {},
    )


def require_same_tensors(
    tensors: Mapping[str, torch.Tensor], stored: Mapping[str, torch.Tensor], folder: Path
) -> None:
    """The model has the tensors of the bundle, with data."""
    for key in (*stored, *tensors):
        fact: str | None = None
        if key not in tensors:
            fact = f"the model has no tensor {key}, which the bundle has"
        elif key not in stored:
            fact = f"the model has the tensor {key}, which the bundle has not"
        elif tensors[key].shape != stored[key].shape:
            shapes = [tuple(found[key].shape) for found in (tensors, stored)]
            fact = f"{key} is {shapes[0]} in the model, but {shapes[1]} in the bundle"
        elif tensors[key].is_meta:
            fact = f"{key} has no data: it is offloaded, or on the meta device"
        if fact is not None:
            raise OptionError(fact, where=str(folder), hint=UNWRAPPED)
