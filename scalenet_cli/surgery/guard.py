"""Notices that another tool replaced a shared module in some of its instances and not in all."""

from collections import defaultdict
from typing import final

import torch
from torch import nn

from scalenet_cli.errors import TieReplacedInPart
from scalenet_cli.families.base import BlockDescription

# The names of the children that lead to a module, from the container of its stage.
Place = tuple[str, ...]


@final
class TieGuard:
    """A forward pre-hook: every shared module has been replaced in all its places, or in none.

    Tools that walk over a model, as PEFT does, come to a shared Linear once, however many names it
    has. What they put in its place then reaches one instance, and the others silently go on without
    it. Replacing a module where it stands is no copy of any tensor, so nothing else would tell.
    """

    def __init__(
        self, path: str, blocks: nn.Module, groups: dict[nn.Module, tuple[Place, ...]]
    ) -> None:
        self._path, self._blocks, self._groups = path, blocks, groups

    def __call__(self, *_: object) -> None:
        """Checks all places; some microseconds per shared module.

        Raises:
            TieReplacedInPart: names a place that was reached and one that was not.
        """
        if torch.compiler.is_compiling():
            return
        for module, places in self._groups.items():
            found = [_follow(self._blocks, place) for place in places]
            kept = [place for place, now in zip(places, found, strict=True) if now is module]
            if kept and len(kept) < len(places):
                order = next(order for order, now in enumerate(found) if now is not module)
                replaced, left = (".".join((self._path, *p)) for p in (places[order], kept[0]))
                kind = type(found[order])
                raise TieReplacedInPart(
                    f"{replaced} was replaced by a {kind.__module__}.{kind.__qualname__}, but "
                    f"{left}, which shares its weights, was not",
                    hint="a tool that visits every module once (as PEFT does) reaches one instance "
                    "of a shared Linear: for adapters on all of them, expand with `adapter: {type: "
                    "lora, targets: all-linear}`; or replace every place that "
                    "scalenet_cli.ties(model) lists",
                )


def guard_ties(model: nn.Module, family: BlockDescription) -> None:
    """Registers a :class:`TieGuard` on the first block of each stage, in place.

    Blocks are called whatever runs the model; wrappers, checkpointed gradients and
    ``forward_intermediates`` pass by the calls of what is around them.
    """
    for stage in family.stages(model):
        blocks = model.get_submodule(stage.path)
        places: defaultdict[nn.Module, list[Place]] = defaultdict(list)
        for name, module in blocks.named_modules(remove_duplicate=False):
            places[module].append(tuple(name.split(".")))
        groups = {module: tuple(found) for module, found in places.items() if len(found) > 1}
        if groups:
            next(blocks.children()).register_forward_pre_hook(TieGuard(stage.path, blocks, groups))


def drop_guards(model: nn.Module) -> None:
    """Takes the guards off a model, in place; for surgery, which replaces modules."""
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, TieGuard):
                del module._forward_pre_hooks[key]


def _follow(module: nn.Module, place: Place) -> nn.Module | None:
    # Not get_submodule: this runs before every pass of a model.
    found: nn.Module | None = module
    for name in place:
        if found is None:
            return None
        found = found._modules.get(name)
    return found
