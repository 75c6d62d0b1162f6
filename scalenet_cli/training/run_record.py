"""What a run was started with, and how a resumed one differs."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from scalenet_cli.plan.schema import Strict
from scalenet_cli.plan.training import DEFAULT_TASK, CurrentName, TaskName
from scalenet_cli.training.contents import DataContents

FORMAT: Final = 1


class SplitRecord(Strict):
    """Which samples a split has, wherever its folder lies."""

    num_samples: int
    digest: str = Field(
        description="sha256 of the classes and, of folders and tars, of the samples' names below "
        "the split and their targets; or of all tokens and which of them are targets"
    )


class RunRecord(Strict):
    """What a run was started with; a resumed one has to agree."""

    format: Literal[1] = FORMAT
    tool: str
    bundle: str = Field(description="digest of the manifest that the run started from")
    train: SplitRecord
    val: SplitRecord
    task: Annotated[TaskName, CurrentName] = DEFAULT_TASK
    num_classes: int | None = Field(None, description="of an image classifier")
    new_head: bool = False
    classes: dict[str, int] = Field(default_factory=dict)
    recipe: str | None = Field(None, description="sha256 of recipe.yaml")
    contents: DataContents | None = Field(None, description="what is known of the images' bytes")
    digest: str | None = Field(None, description="of all the rest, see digest_content")


def compare_records(
    old: RunRecord, new: RunRecord, *, options: Sequence[str], bundle_name: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How a resumed run differs from its beginning, and what the user should do about it.

    ``options`` decide samples and head beside --data, and no recipe keeps them; ``bundle_name``
    says what the bundle's digest covers.

    The run keeps its recipe; bundle and data have to be named again.
    """
    found = [*_other_data(old, new), *_other_head(old, new)]
    if old.bundle != new.bundle:
        found.append(f"{bundle_name}: digest {old.bundle[:12]} -> {new.bundle[:12]}")
    if not found:
        return (), ()
    named = f" and those of {', '.join(options)}" if options else ""
    advice = f"repeat the bundle, the data{named} that the run was started with"
    return tuple(found), (advice,)


def _other_data(old: RunRecord, new: RunRecord) -> Iterator[str]:
    for name, before, after in (("train", old.train, new.train), ("val", old.val, new.val)):
        if before.num_samples != after.num_samples:
            yield f"{name} data: {before.num_samples:,} samples -> {after.num_samples:,}"
        elif before != after:
            yield f"{name} data: other samples or targets"


def _other_head(old: RunRecord, new: RunRecord) -> Iterator[str]:
    if old.new_head != new.new_head:
        yield f"a new head: {_yes(old.new_head)} -> {_yes(new.new_head)}"
    if (old.num_classes, old.classes) != (new.num_classes, new.classes):
        yield f"classes: {old.num_classes} -> {new.num_classes}, or other names"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
