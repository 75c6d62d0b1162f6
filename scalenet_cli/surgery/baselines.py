"""What the tensors of an extra instance start as, where it does not share them with its source."""

import random
from collections.abc import Mapping, Sequence
from typing import Final

from torch import nn

from scalenet_cli.families.base import Anatomy, RandomInit
from scalenet_cli.plan.layout import Instance, StageLayout
from scalenet_cli.plan.schema import ExpansionPlan
from scalenet_cli.surgery.values import Averaged, Constant, Copied, Normal, Value, derive_seed

# Blocks that the SWA baseline averages for one new block; the paper does not give the number.
NUM_AVERAGED: Final = 2


def initial_values(
    block: nn.Module,
    templates: Sequence[nn.Module],
    source_keys: Mapping[int, str],
    anatomy: Anatomy,
    init: RandomInit,
    plan: ExpansionPlan,
    slot: Instance,
    averaged: Sequence[int],
) -> dict[int, Value]:
    """``id`` of a Parameter of ``block`` -> initial value, where it is not one of the templates'.

    By ``id``, because wrapping a Linear gives its tensors other keys.

    ``source_keys`` names the source model's Parameters by ``id``; ``averaged`` lists the blocks
    that this slot would average.
    """
    template = templates[slot.source]
    tied = {id(parameter) for parameter in template.parameters()}
    values: dict[int, Value] = {}
    for key, parameter in block.named_parameters():
        if id(parameter) in tied:
            continue
        is_norm = any(key.startswith(f"{norm}.") for norm in anatomy.norms)
        value: Value = Copied(source_keys[id(template.get_parameter(key))])
        match plan.shared.weights:
            case "averaged":
                same = (templates[source].get_parameter(key) for source in averaged)
                value = Averaged(tuple(source_keys[id(tensor)] for tensor in same))
            case "random" if parameter.ndim > 1:
                value = Normal(init.std)
            case "random" if key.endswith(".bias"):
                value = Constant(0.0)
            case "random" if is_norm:
                value = Constant(init.norm)
        values[id(parameter)] = value
    return values


def averaged_sources(seed: int, stage: StageLayout, position: int) -> tuple[int, ...]:
    """The pretrained blocks whose average a new block of the SWA baseline starts as."""
    rng = random.Random(derive_seed(seed, f"{stage.path}.{position}"))
    return tuple(sorted(rng.sample(range(stage.depth), min(NUM_AVERAGED, stage.depth))))
