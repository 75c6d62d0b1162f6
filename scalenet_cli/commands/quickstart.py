"""``scalenet quickstart``: the whole tool on a small real checkpoint, without a download."""

from pathlib import Path

from scalenet_cli.bundle.read import is_bundle, read_manifest
from scalenet_cli.bundle.reports import FlopReport, ParameterReport, Report
from scalenet_cli.commands.count import count_params, flops
from scalenet_cli.commands.expand import expand_checkpoint
from scalenet_cli.commands.inspection import InspectReport, inspect
from scalenet_cli.commands.verify import VerifyReport, verify
from scalenet_cli.plan.recipes import recipes_folder


class QuickstartReport(Report):
    """Before, after, the picture and the proof."""

    checkpoint: str
    output: str
    base_parameters: ParameterReport
    base_flops: FlopReport
    parameters: ParameterReport
    flops: FlopReport
    layout: InspectReport
    verification: VerifyReport


def quickstart(output: str | Path) -> QuickstartReport:
    """Expands the shipped checkpoint into ``output``; its own earlier output is replaced.

    Raises:
        OutputExists: something else is there.
    """
    checkpoint = recipes_folder() / "quickstart" / "fashion_mnist_vit"
    # Only its own earlier output is replaced without being asked to.
    replace = (
        is_bundle(Path(output)) and read_manifest(Path(output)).source.reference == checkpoint.name
    )
    expanded = expand_checkpoint(str(checkpoint), "quickstart/x2", output, force=replace)
    return QuickstartReport(
        checkpoint=checkpoint.name,
        output=str(output),
        base_parameters=count_params(str(checkpoint)),
        base_flops=flops(str(checkpoint)),
        parameters=expanded.parameters,
        flops=expanded.flops,
        layout=inspect(str(output)),
        verification=verify(output, source=str(checkpoint)).model_copy(
            update={"compared_with": "the shipped checkpoint"}
        ),
    )
