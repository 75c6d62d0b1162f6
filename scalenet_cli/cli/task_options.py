"""Puts the options of every task behind those that a command has for all of them."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from scalenet_cli.tasks import TASKS
from scalenet_cli.tasks.options import Command, GivenOptions, OptionField, task_options


def with_task_options(command: Command, run: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter ``given`` stands for the options of all tasks.

    They get a help panel per task. An option that several tasks have is shown once, and has to be
    the same for all of them.
    """
    signature = inspect.signature(run)
    found: dict[str, tuple[OptionField, list[str]]] = {}
    for task in TASKS:
        for one in task_options(task).fields(command):
            first, models = found.setdefault(one.name, (one, []))
            assert one == first, f"tasks declare {one.flag} differently"
            models.append(task_options(task).models)
    added = [_parameter(one, ", ".join(models)) for one, models in found.values()]
    own = [p for p in signature.parameters.values() if p.name != "given"]

    @wraps(run)
    def command_function(invocation: typer.Context, **values: Any) -> None:
        mine = {name: values.pop(name) for name in found}
        given = frozenset(
            name
            for name in found
            if (source := invocation.get_parameter_source(name)) is not None
            and source.name == "COMMANDLINE"
        )
        run(invocation=invocation, given=GivenOptions(command, mine, given), **values)

    vars(command_function)["__signature__"] = signature.replace(
        parameters=[*own, *added], return_annotation=None
    )
    command_function.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    return command_function


def _parameter(one: OptionField, panel: str) -> inspect.Parameter:
    option = typer.Option(
        one.flag,
        metavar=one.option.metavar,
        min=one.option.minimum,
        max=one.option.maximum,
        help=one.option.help,
        rich_help_panel=panel.capitalize(),
    )
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=one.default,
        annotation=Annotated[one.type, option],
    )
