"""Which Linears, or which whole modules, of a block get an adapter."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from scalenet_cli.errors import PlanErrors, TargetMatchesNothing
from scalenet_cli.families.base import Anatomy
from scalenet_cli.plan.layout import Instance, StageLayout
from scalenet_cli.plan.schema import AdapterSettings


def adapter_targets(
    plan: AdapterSettings, anatomy: Anatomy, sits_beside: Literal["linear", "module"]
) -> tuple[str, ...]:
    """What ``adapter.targets`` means for adapters that sit so, in the order of execution.

    A pattern matches a whole path (``mlp.fc1``) or the end of one (``fc1``), with ``*`` and ``?``.

    Raises:
        PlanErrors: every pattern that matches nothing; ``all-linear`` beside whole modules.
    """
    if sits_beside == "module":
        return _target_modules(plan, anatomy)
    match plan.targets:
        case "mlp":
            return anatomy.mlp
        case "attention":
            return anatomy.attention
        case "all-linear":
            return anatomy.linears
    return _match(plan.targets, anatomy.linears, "Linear")


def _target_modules(plan: AdapterSettings, anatomy: Anatomy) -> tuple[str, ...]:
    match plan.targets:
        case "mlp":
            return anatomy.mlp_module
        case "attention":
            return anatomy.attention_module
        case "all-linear":
            raise PlanErrors(
                (
                    TargetMatchesNothing(
                        f"adapters of the type {plan.type} sit beside whole modules, so "
                        "adapter.targets cannot be all-linear",
                        hint="targets: mlp, or attention",
                        field=("adapter", "targets"),
                    ),
                )
            )
    return _match(plan.targets, anatomy.attention_module + anatomy.mlp_module, "module")


def _match(patterns: Sequence[str], paths: Sequence[str], noun: str) -> tuple[str, ...]:
    hits = {pattern: {path for path in paths if _matches(path, pattern)} for pattern in patterns}
    errors = tuple(
        TargetMatchesNothing(
            f"adapter.targets names {pattern}, which matches no {noun} of a block",
            hint=f"{noun}s here: {', '.join(paths)}",
            field=("adapter", "targets", order),
        )
        for order, pattern in enumerate(patterns)
        if not hits[pattern]
    )
    if errors:
        raise PlanErrors(errors)
    chosen = set().union(*hits.values())
    return tuple(path for path in paths if path in chosen)


def gets_adapter(plan: AdapterSettings, stage: StageLayout, instance: Instance) -> bool:
    """Whether this instance gets an adapter of its own."""
    match plan.instances:
        case "all":
            return True
        case "scaled":
            return instance.source in stage.scope
        case "new":
            return instance.ordinal > 0


def _matches(path: str, pattern: str) -> bool:
    return fnmatchcase(path, pattern) or fnmatchcase(path, f"*.{pattern}")
