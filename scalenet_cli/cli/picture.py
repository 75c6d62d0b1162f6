"""The layout as a picture: one row per set of weights, one column per executed block."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from scalenet_cli.commands.inspection import StageReport

_MARKS: Final = {True: ("\N{BLACK CIRCLE}", "\N{WHITE CIRCLE}", "\N{MIDDLE DOT}"), False: "Oo."}
_GUTTER: Final = 9


def draw_layout(stages: "Sequence[StageReport]", width: int, unicode: bool) -> Iterator[str]:
    """Lines of text; instances in one row share their weights.

    A stage wider than ``width`` characters is drawn in several bands.
    """
    pretrained, extra, empty = _MARKS[unicode]
    for index, stage in enumerate(stages):
        if stage.scaled_depth == stage.depth:
            yield f"stage {index}: {stage.depth} blocks, each executed once"
            continue
        yield f"stage {index}: {stage.depth} blocks executed as {stage.scaled_depth}"
        step = max(10, (width - _GUTTER) // 10 * 10)
        for start in range(0, stage.scaled_depth, step):
            columns = range(start, min(start + step, stage.scaled_depth))
            tens = "".join(str(c // 10 % 10) if c % 10 == 0 else " " for c in columns)
            ones = "".join(str(c % 10) for c in columns)
            if stage.scaled_depth > 10:
                yield f"{'':{_GUTTER}}{tens}".rstrip()
            yield f"{'position':{_GUTTER}}{ones}"
            for source in sorted({stage.sources[c] for c in columns}):
                marks = "".join(
                    empty
                    if stage.sources[c] != source
                    else pretrained
                    if stage.ordinals[c] == 0
                    else extra
                    for c in columns
                )
                label = "block" if source == stage.sources[columns[0]] else ""
                yield f"{label:5}{source:3} {marks}"
    if any(stage.scaled_depth > stage.depth for stage in stages):
        yield f"a row is one set of weights: {pretrained} the pretrained block, {extra} tied to it"
