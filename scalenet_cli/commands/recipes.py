"""``scalenet recipes``."""

from itertools import takewhile

from scalenet_cli.plan.load import load_plan
from scalenet_cli.plan.load_study import load_study
from scalenet_cli.plan.recipes import recipe_names, recipe_path, study_names, training_recipe_names
from scalenet_cli.reports.base import Report


class RecipeRow(Report):
    """One shipped recipe."""

    name: str
    title: str
    source: str
    stored: int | None


class TrainingRow(Report):
    """One shipped training recipe."""

    name: str
    title: str


class StudyRow(Report):
    """One shipped study."""

    name: str
    title: str
    source: str
    arms: tuple[str, ...]


class RecipeList(Report):
    """All shipped recipes: plans, how to train, and what to compare."""

    recipes: tuple[RecipeRow, ...]
    training: tuple[TrainingRow, ...]
    studies: tuple[StudyRow, ...]


def list_recipes() -> RecipeList:
    """Names, titles, sources and expected counts."""
    rows = []
    for name in recipe_names():
        recipe = load_plan(name).recipe
        assert recipe is not None, f"{name} is a plan, not a recipe"
        stored = recipe.expect.stored if recipe.expect else None
        rows.append(RecipeRow(name=name, title=recipe.title, source=recipe.source, stored=stored))
    training = [TrainingRow(name=n, title=_title(show_recipe(n))) for n in training_recipe_names()]
    studies = tuple(_study_row(name) for name in study_names())
    return RecipeList(recipes=tuple(rows), training=tuple(training), studies=studies)


def show_recipe(name: str) -> str:
    """The file of one recipe, as it stands.

    Raises:
        UnknownRecipe: no recipe has this name.
    """
    names = [*recipe_names(), *training_recipe_names(), *study_names()]
    return recipe_path(name, names).read_text(encoding="utf-8")


def _study_row(name: str) -> StudyRow:
    study = load_study(name).study
    arms = tuple(arm.name for arm in study.arms)
    return StudyRow(name=name, title=study.title or "", source=study.source, arms=arms)


def _title(text: str) -> str:
    """The first sentence of the comment that a training recipe begins with."""
    comment = takewhile(lambda line: line.startswith("#"), text.splitlines())
    sentence = " ".join(line.removeprefix("#").strip() for line in comment)
    return sentence.split(": ")[0].split(". ")[0].rstrip(".")
