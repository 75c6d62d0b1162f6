"""``scalenet recipes``."""

from scalenet_cli.bundle.reports import Report
from scalenet_cli.plan.load import load_plan
from scalenet_cli.plan.recipes import recipe_names, recipe_path


class RecipeRow(Report):
    """One shipped recipe."""

    name: str
    title: str
    source: str
    stored: int | None


class RecipeList(Report):
    """All shipped recipes."""

    recipes: tuple[RecipeRow, ...]


def list_recipes() -> RecipeList:
    """Names, titles, sources and expected counts."""
    rows = []
    for name in recipe_names():
        recipe = load_plan(name).recipe
        assert recipe is not None, f"{name} is a plan, not a recipe"
        stored = recipe.expect.stored if recipe.expect else None
        rows.append(RecipeRow(name=name, title=recipe.title, source=recipe.source, stored=stored))
    return RecipeList(recipes=tuple(rows))


def show_recipe(name: str) -> str:
    """The file of one recipe, as it stands.

    Raises:
        UnknownRecipe: no recipe has this name.
    """
    return recipe_path(name).read_text(encoding="utf-8")
