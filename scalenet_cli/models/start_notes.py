"""What a user should hear of a start: what it costs before training, and what it keeps silent."""

from collections.abc import Iterator, Mapping
from typing import Final

from torch import nn

from scalenet_cli.families.base import Family
from scalenet_cli.models.describe import DescribedModel
from scalenet_cli.plan.schema import Group
from scalenet_cli.surgery.instance import adjusted_modules, block_anatomy

# Before any training, docs/results.md: top-1 of a ViT on CIFAR-10 (its source has 56.97 %), and
# perplexity of SmolLM2-135M on C4 (its source has 35.26); `mapping: interpolate`, tied weights.
_MEASURED: Final[Mapping[str, tuple[str, str]]] = {
    "copy": ("31.12", "8,278"),
    "average": ("53.66", "1,686"),
}


def start_notes(described: DescribedModel) -> Iterator[str]:
    """Notes on the start of a scaled model, of which the groups of its plan will be trained."""
    plan = described.plan
    assert plan is not None
    if described.layout.num_new and plan.start in _MEASURED:
        top1, perplexity = _MEASURED[plan.start]
        yield (
            f"start: {plan.start} does not keep what the source computes. Measured before "
            f"training: a ViT fell from 56.97 to {top1} % top-1, the perplexity of SmolLM2 rose "
            f"from 35.26 to {perplexity} (docs/results.md); `start: identity` keeps the source"
        )
    yield from silence_notes(described, described.train)


def silence_notes(described: DescribedModel, train: tuple[Group, ...]) -> Iterator[str]:
    """A note where gates of 0 stay 0, because no training of the groups ``train`` reaches them."""
    plan, layout, model = described.plan, described.layout, described.model
    assert plan is not None
    if plan.start != "identity" or not layout.num_new or "gates" in train:
        return
    beside_gates = [
        f"{stage.path}.{slot.position}.{part}.adapter."
        for stage, slot in layout
        if slot.ordinal > 0
        for part in _where_adapters_add(
            model.get_submodule(f"{stage.path}.{slot.position}"), described.family
        )
    ]
    adapted = "adapters" in train and any(
        key.startswith(prefix) for prefix in beside_gates for key in described.groups
    )
    yield (
        "start: identity gives new blocks gates of 0, and gates are not trained here, so "
        + ("new blocks learn through their adapters alone" if adapted else "they never do anything")
        + "; add gates to train"
    )


def _where_adapters_add(block: nn.Module, family: Family) -> tuple[str, ...]:
    """The paths at which an adapter reaches the residual stream although the gates are 0."""
    return (*block_anatomy(block, family).closing, *adjusted_modules(block))
