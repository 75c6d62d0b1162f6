"""``scalenet count-params`` and ``scalenet flops``."""

from scalenet_cli.errors import ArchitectureMismatch, OptionError
from scalenet_cli.models.source_options import SourceOptions
from scalenet_cli.models.target import open_target
from scalenet_cli.plan.load import load_plan
from scalenet_cli.reports.base import FlopReport, ParameterReport


def count_params(
    target: str, *, plan: str | None = None, options: SourceOptions | None = None
) -> ParameterReport:
    """Parameters of a bundle, a checkpoint, ``timm:NAME`` or ``hf:REPO``; a plan scales it.

    No weights are read or downloaded. A bundle's manifest has the answer, without torch.

    Raises:
        ScalenetError: the target or the plan cannot be used.
    """
    document = load_plan(plan) if plan is not None else None
    opened = open_target(target, options)
    if opened.manifest is not None and document is None:
        return opened.manifest.parameters
    from scalenet_cli.measure.params import count_parameters
    from scalenet_cli.models.describe import describe

    described = describe(opened, document)
    return count_parameters(described.model, described.layout, described.groups, described.train)


def flops(
    target: str,
    *,
    plan: str | None = None,
    input_size: int | None = None,
    options: SourceOptions | None = None,
) -> FlopReport:
    """Work of one forward pass over one image or sequence.

    ``input_size`` is the image side in pixels, or the sequence length in tokens (default: what the
    model is built for, at most 512 tokens).

    Raises:
        ScalenetError: the target or the plan cannot be used, or the model refuses the size.
    """
    document = load_plan(plan) if plan is not None else None
    opened = open_target(target, options)
    if opened.manifest is not None and document is None:
        stored = opened.manifest.flops
        if input_size in (None, stored.input_size):
            return stored
    from scalenet_cli.measure.flops import count_flops
    from scalenet_cli.models.describe import describe

    try:
        described = describe(opened, document, image_size=input_size)
    except ArchitectureMismatch as error:
        if input_size is None:
            raise
        raise OptionError(f"--input-size {input_size}: {error.fact}", where=target) from None
    size = input_size or described.family.default_input_size(described.model)
    return count_flops(described.model, described.layout, described.family, size)
