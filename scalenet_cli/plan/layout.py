"""A mapping resolved against one model: pure data, stored in the manifest."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageShape:
    """What a plan needs to know of one stage: module path, number of blocks, channels."""

    path: str
    depth: int
    width: int


@dataclass(frozen=True, slots=True)
class Instance:
    """One executed slot: its place in the stage, the block it executes, and which use it is.

    ``ordinal`` 0 is the pretrained occurrence.
    """

    position: int
    source: int
    ordinal: int


@dataclass(frozen=True, slots=True)
class StageLayout:
    """The slots of one stage, in the order of execution.

    ``depth`` is the number of pretrained blocks; ``scope`` names those that the plan reuses.
    """

    path: str
    depth: int
    instances: tuple[Instance, ...]
    scope: tuple[int, ...]

    def uses(self, source: int) -> int:
        """How many instances execute one pretrained block."""
        return sum(instance.source == source for instance in self.instances)


@dataclass(frozen=True, slots=True)
class Layout:
    """All stages of one scaled model."""

    stages: tuple[StageLayout, ...]

    def __iter__(self) -> Iterator[tuple[StageLayout, Instance]]:
        """Every instance of the model, in the order of execution."""
        for stage in self.stages:
            for instance in stage.instances:
                yield stage, instance

    @property
    def num_instances(self) -> int:
        """Executed blocks of the whole model."""
        return sum(len(stage.instances) for stage in self.stages)

    @property
    def num_new(self) -> int:
        """Executed blocks that the pretrained model does not have."""
        return sum(len(stage.instances) - stage.depth for stage in self.stages)


def stage_layout(
    path: str, depth: int, sources: tuple[int, ...], scope: tuple[int, ...]
) -> StageLayout:
    """Number the uses of each source in the order of execution.

    >>> [i.ordinal for i in stage_layout("blocks", 2, (0, 1, 0), (0, 1)).instances]
    [0, 0, 1]
    """
    seen: Counter[int] = Counter()
    instances = []
    for position, source in enumerate(sources):
        instances.append(Instance(position, source, seen[source]))
        seen[source] += 1
    return StageLayout(path, depth, tuple(instances), scope)
