"""Puts the options of every task behind those that a command has for all of them."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import wraps
from typing import Annotated, Any, TypeVar

import typer

from scalenet_cli.tasks import TASKS
from scalenet_cli.tasks.options import Command, OptionField, refuse_other_tasks, task_options

R = TypeVar("R")


class GivenOptions:
    """What the user gave of the options that belong to tasks."""

    def __init__(self, command: Command, values: Mapping[str, Any], given: frozenset[str]) -> None:
        self._command: Command = command
        self._values, self._given = values, given

    def record(self, task: str, where: str) -> Any:
        """The record of a task for this command.

        Raises:
            OptionError: an option was given that only other tasks have.
        """
        refuse_other_tasks(self._command, self._given, task, where)
        own = task_options(task)
        if self._command not in own.records:
            return None
        names = [one.name for one in own.fields(self._command)]
        return own.records[self._command](**{name: self._values[name] for name in names})

    def record_of(self, kind: type[R]) -> R:
        """A task's record for this command, whatever the task of the target is."""
        names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: self._values[name] for name in names})

    def value(self, name: str) -> Any:
        """The value of one option, whichever task has it."""
        return self._values[name]


def with_task_options(command: Command, run: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter ``given`` stands for the options of all tasks.

    They get a help panel per task. An option that several tasks have is shown once.
    """
    signature = inspect.signature(run)
    found: dict[str, tuple[OptionField, list[str]]] = {}
    for task in TASKS:
        for one in task_options(task).fields(command):
            found.setdefault(one.name, (one, []))[1].append(task_options(task).models)
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

    first, *others = own
    vars(command_function)["__signature__"] = signature.replace(
        parameters=[first, *others, *added], return_annotation=None
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
