"""The recipes that ship with scalenet: a plan, the source it is meant for, and expected numbers."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from pydantic import Field

from scalenet_cli.errors import UnknownRecipe
from scalenet_cli.plan.schema import Count, ExpansionPlan, Strict


class Expected(Strict):
    """The numbers that the recipe must give; a test compares them."""

    stored: Count = Field(description="stored parameters of the scaled model")
    new_blocks: int = Field(ge=0, description="executed blocks more than the source has")
    published_millions: float | None = Field(None, description="the paper's figure")
    published_follows: bool = Field(
        True, description="whether the published figure follows from the method as stated"
    )


class Recipe(Strict):
    """A plan with what belongs to it."""

    version: int = Field(1, ge=1, le=1, description="the version of this schema")
    title: str = Field(description="one line")
    source: str = Field(description="the model it is meant for, such as timm:NAME")
    plan: ExpansionPlan
    expect: Expected | None = None
    note: str | None = None


TRAINING: Final = "training/"
STUDIES: Final = "studies/"
_INSTALLED: Final = Path(__file__).parents[1] / "recipes"
# An editable install reads the repository's own folder: the wheel's copy is made when it is built.
_REPOSITORY: Final = Path(__file__).parents[2] / "recipes"


def recipes_folder() -> Path:
    """Where the shipped recipes lie."""
    return _INSTALLED if _INSTALLED.is_dir() else _REPOSITORY


def recipe_names() -> Iterator[str]:
    """All shipped recipes, as the names that ``--plan`` takes."""
    return (name for name in _all_names() if not name.startswith((TRAINING, STUDIES)))


def training_recipe_names() -> Iterator[str]:
    """All shipped training recipes, as the names that ``--recipe`` takes."""
    return (name for name in _all_names() if name.startswith(TRAINING))


def study_names() -> Iterator[str]:
    """All shipped studies, as the names that ``scalenet compare`` takes."""
    return (name for name in _all_names() if name.startswith(STUDIES))


def _all_names() -> Iterator[str]:
    folder = recipes_folder()
    for path in sorted(folder.rglob("*.yaml")):
        yield path.relative_to(folder).with_suffix("").as_posix()


def recipe_path(name: str, names: Collection[str] | None = None) -> Path:
    """The file of one shipped recipe, of those in ``names`` (default: all plans).

    Raises:
        UnknownRecipe: no recipe has this name.
    """
    names = list(recipe_names()) if names is None else names
    if name in names:
        return recipes_folder() / f"{name}.yaml"
    # difflib costs 10 ms of start-up and is only needed to be helpful.
    from difflib import get_close_matches

    close = get_close_matches(name, names, n=3, cutoff=0.4)
    raise UnknownRecipe(
        f"no file and no recipe is called {name}",
        hint=(f"did you mean {', '.join(close)}? " if close else "")
        + "`scalenet recipes` lists them all",
    )
