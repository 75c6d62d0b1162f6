"""``scalenet inspect``."""

from scalenet_cli.cli.options import Arch, Json, ModelKwargs, OptionalPlan, Target, source_options


def inspect(
    target: Target,
    plan: OptionalPlan = None,
    arch: Arch = None,
    model_kwargs: ModelKwargs = None,
    as_json: Json = False,
) -> None:
    """Show stages, blocks and widths, and draw which instances share weights."""
    from scalenet_cli.cli import render
    from scalenet_cli.commands.inspection import inspect as look

    report = look(target, plan=plan, options=source_options(arch, model_kwargs))
    render.notes(report.notes)
    render.report(report, render.inspection, as_json=as_json)
