"""Rules that say which pretrained block each slot of a deeper stage executes."""

from collections.abc import Callable, Mapping
from typing import Final


def interpolate(depth: int, target_depth: int) -> tuple[int, ...]:
    """Place every extra instance right after its source.

    Each source gets ``target_depth // depth`` instances; the first ``target_depth % depth`` sources
    get one more.

    >>> interpolate(3, 7)
    (0, 0, 0, 1, 1, 2, 2)
    """
    uses, extra = divmod(target_depth, depth)
    return tuple(
        source for source in range(depth) for _ in range(uses + 1 if source < extra else uses)
    )


def stack(depth: int, target_depth: int) -> tuple[int, ...]:
    """Repeat the whole run of sources, so that the extra instances follow at the tail.

    >>> stack(3, 7)
    (0, 1, 2, 0, 1, 2, 0)
    """
    return tuple(position % depth for position in range(target_depth))


MAPPINGS: Final[Mapping[str, Callable[[int, int], tuple[int, ...]]]] = {
    "interpolate": interpolate,
    "stack": stack,
}
