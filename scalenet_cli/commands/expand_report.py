"""What ``scalenet expand`` reports."""

from scalenet_cli.reports.base import FlopReport, NonFiniteTensor, ParameterReport, Report


class ExpandReport(Report):
    """What was, or would be, written."""

    output: str
    written: bool
    source_parameters: int
    blocks: int
    new_blocks: int
    parameters: ParameterReport
    flops: FlopReport
    source_bytes: int
    bundle_bytes: int
    largest_tensor_bytes: int
    training_state_bytes: int
    non_finite: tuple[NonFiniteTensor, ...]
    notes: tuple[str, ...]
