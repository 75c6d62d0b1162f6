"""``save_pretrained`` of a scaled transformers model: it writes a bundle."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

import torch

from scalenet_cli.bundle.read import is_bundle
from scalenet_cli.bundle.tensor_files import TensorFile, write_file
from scalenet_cli.errors import OptionError, OutputExists
from scalenet_cli.families.sources.tensors import hold
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import require_outside_run
from scalenet_cli.files.staged_file import staged_file
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.models.write_model import require_same_tensors, write_model

# Where a training run of ours has its newest bundle too, so that `load` finds it.
BUNDLE: Final = "last"
# What Trainer reads when it resumes.
STATE: Final = "model.safetensors"
CONFIG: Final = "config.json"
# In the place of a number, so that transformers names the field and shows this.
_CONFIG: Final = "a scaled model, to be read with scalenet_cli.load and not with from_pretrained"


@final
class BundleSaver:
    """Stands in for the ``save_pretrained`` of a scaled transformers model.

    No transformers class has tied blocks or adapters, so what it would write could not be read
    again: ``from_pretrained`` would draw every adapted Linear anew. This writes a bundle into the
    folder ``last`` (``scalenet_cli.load`` finds it there), and beside it the tensors that Trainer
    loads when it resumes. The config there is one that ``from_pretrained`` refuses; without a
    config it would take its default sizes.
    """

    def __init__(self, model: Any, start: DescribedModel | None) -> None:
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
            require_same_tensors(given, tensors, folder)
            tensors = given
        folder.mkdir(parents=True, exist_ok=True)
        if self._start is not None:
            with sole_writer(folder / BUNDLE):
                write_model(self._model, self._start, tensors, folder / BUNDLE)
        self._write_files(folder, tensors)

    def _write_files(self, folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
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
