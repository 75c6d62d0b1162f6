"""``scalenet recipes``."""

from typing import Annotated

import typer

from scalenet_cli.cli.options import Json


def recipes(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="Print this recipe's file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the recipes that ship with scalenet, or print one.

    Plans are for --plan of expand; training recipes are for --recipe of finetune; studies are for
    compare.
    """
    from scalenet_cli.cli import render
    from scalenet_cli.commands.recipes import list_recipes, show_recipe

    if name is not None:
        render.text(show_recipe(name))
        return
    render.report(list_recipes(), render.recipe_list, as_json=as_json)
