"""Writes a model that was loaded, and trained since, as a bundle."""

from pathlib import Path

from torch import nn

from scalenet_cli.bundle.staging import check_output
from scalenet_cli.files.lock import sole_writer
from scalenet_cli.files.output_parts import require_outside_run
from scalenet_cli.models.load import load_bundle
from scalenet_cli.models.write_model import write_model


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
