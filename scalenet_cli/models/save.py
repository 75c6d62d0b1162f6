"""A model in memory as a bundle: what a training loop of one's own ends with."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import torch
from torch import nn

from scalenet_cli.bundle.read import is_bundle, map_tensors, open_bundle
from scalenet_cli.bundle.tensor_files import TensorFile, write_file
from scalenet_cli.bundle.trained import write_trained
from scalenet_cli.errors import OptionError, OutputExists, SourceMismatch
from scalenet_cli.families.sources.tensors import hold
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import require_outside_run
from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.models.loaded import Loaded
from scalenet_cli.models.trained_model import TrainedModel
from scalenet_cli.plan.schema import GROUPS
from scalenet_cli.surgery import verify_ties

# Where a training run of ours has its newest bundle too, so that `load` finds it.
BUNDLE: Final = "last"
# What Trainer reads when it resumes.
STATE: Final = "model.safetensors"
CONFIG: Final = "config.json"
# In the place of a number, so that transformers names the field and shows this.
_CONFIG: Final = "a scaled model, to be read with scalenet_cli.load and not with from_pretrained"
_UNWRAPPED: Final = (
    "pass the model that scalenet_cli.load(start) gave, without what was put around it since "
    "(DDP: model.module; adapters of PEFT cannot be stored in a bundle)"
)


@final
class BundleSaver:
    """Stands in for the ``save_pretrained`` of a scaled transformers model.

    No transformers class has tied blocks or adapters, so what it would write could not be read
    again: ``from_pretrained`` would draw every adapted Linear anew. This writes a bundle into the
    folder ``last`` (``scalenet_cli.load`` finds it there), and beside it the tensors that Trainer
    loads when it resumes. The config there is one that ``from_pretrained`` refuses; without a
    config it would take its default sizes.
    """

    def __init__(self, model: Any, start: Loaded | None) -> None:
        self._model, self._start = model, start

    def __call__(
        self,
        save_directory: str | Path,
        is_main_process: bool = True,
        state_dict: Mapping[str, torch.Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: object = None,
    ) -> None:
        """See the class; ``max_shard_size`` is accepted, because ``push_to_hub`` passes it.

        Raises:
            OptionError: ``push_to_hub``.
            OutputExists: the folder is a bundle, part of a run, or another model's.
            ScalenetError: see :func:`scalenet_cli.save`.
        """
        if push_to_hub:
            raise OptionError(
                "a scaled model cannot be pushed by save_pretrained",
                hint="save it, and upload the folder with huggingface_hub.upload_folder",
            )
        if not is_main_process:
            return
        folder = Path(save_directory)
        _require_room(folder)
        tensors: dict[str, torch.Tensor] = dict(self._model.named_parameters())
        if state_dict is not None:
            given = {key: state_dict[key] for key in tensors if key in state_dict}
            _require_same(given, tensors, folder)
            tensors = given
        folder.mkdir(parents=True, exist_ok=True)
        if self._start is not None:
            with sole_writer(folder / BUNDLE):
                write_model(self._model, self._start, tensors, folder / BUNDLE)
        # Each tensor once, by its first name: Trainer's load_state_dict reaches the others by it.
        held = {key: hold(tensor.detach().cpu(), key) for key, tensor in tensors.items()}
        # Never written in place: a model may be mapped from the file that is replaced.
        with staged_file(folder / STATE) as staging:
            write_file(folder, "instances", TensorFile(staging.name, held))
        config = {"model_type": self._model.config.model_type, "num_hidden_layers": _CONFIG}
        with staged_file(folder / CONFIG) as staging:
            staging.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _require_room(folder: Path) -> None:
    """No bundle, run or other checkpoint is replaced by the files of ``save_pretrained``."""
    require_outside_run(folder / BUNDLE)
    if is_bundle(folder):
        raise OutputExists(
            f"the folder is a bundle, and {STATE} in it would be replaced",
            where=str(folder),
            hint="save into another folder; scalenet_cli.save(..., force=True) replaces a bundle",
        )
    config = folder / CONFIG
    if config.is_file() and _CONFIG not in config.read_text(encoding="utf-8", errors="replace"):
        raise OutputExists(
            f"the folder holds another model, whose {CONFIG} and {STATE} would be replaced",
            where=str(folder),
            hint="save into another folder",
        )


def write_model(
    model: nn.Module,
    start: Loaded,
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
    _require_same(tensors, stored, start.bundle.folder)
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


def _stored(start: Loaded) -> dict[str, torch.Tensor]:
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


def _subject(start: Loaded, changed: Mapping[str, torch.Tensor]) -> TrainedModel:
    groups = {start.groups[key] for key in changed}
    before = start.bundle.manifest.trained
    return TrainedModel(
        start.model,
        start.family,
        start.layout,
        start.groups,
        tuple(group for group in GROUPS if group in groups),
        start.base_keys,
        start.bundle,
        start.bundle.manifest,
        before.num_classes if before else None,
        classes=before.classes if before else {},
    )


def _require_same(
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
            raise OptionError(fact, where=str(folder), hint=_UNWRAPPED)
