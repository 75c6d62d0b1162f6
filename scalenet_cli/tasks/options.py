"""Options that belong to one task, declared as records, and the rule that refuses them elsewhere.

Nothing here, and in no ``tasks/*/options.py``, imports torch or pydantic: ``scalenet --help`` reads
the records of all tasks.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks import TASKS

Command = Literal["finetune", "eval", "diagnose"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How a field of a record is given on the command line: ``Annotated[str, Option(help=...)]``.

    ``flag`` is by default the field's name with dashes.
    """

    help: str
    flag: str | None = None
    metavar: str | None = None
    minimum: int | None = None
    maximum: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionField:
    """A field of a record that is an option, with its type and its default."""

    name: str
    type: Any
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """As it is written on the command line."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """The options that a task owns: a record per command.

    ``models`` and ``a_model`` are what messages call its models: "image classifiers", "an image
    classifier".
    """

    models: str
    a_model: str
    records: Mapping[Command, type]

    def fields(self, command: Command) -> tuple[OptionField, ...]:
        """The options of a command."""
        return tuple(_option_fields(self.records[command])) if command in self.records else ()


def task_options(task: str) -> TaskOptions:
    """What a task owns: ``OPTIONS`` of its ``options.py``, or of its only module."""
    module = TASKS[task].split(":")[0]
    folder, _, name = module.rpartition(".")
    found = import_module(f"{folder}.options" if name == "task" else module).OPTIONS
    assert isinstance(found, TaskOptions)
    return found


def refuse_other_tasks(command: Command, given: Collection[str], task: str, where: str) -> None:
    """No option was given that only other tasks have: it would change nothing.

    ``given`` are names of fields.

    Raises:
        OptionError: one was.
    """
    for one, models in foreign_options(command, given, task):
        raise OptionError(
            f"{one.flag} is for {models}, but this is {task_options(task).a_model}", where=where
        )


def foreign_options(
    command: Command, given: Collection[str], task: str
) -> Iterator[tuple[OptionField, str]]:
    """The options among ``given`` that only other tasks have, and what their models are called."""
    own = {one.name for one in task_options(task).fields(command)}
    for other in TASKS:
        options = task_options(other)
        for one in options.fields(command):
            if one.name in given and one.name not in own:
                yield one, options.models


def given_fields(record: object) -> set[str]:
    """The names of a record's fields that have another value than their default."""
    assert not isinstance(record, type)
    return {
        one.name
        for one in fields(record)  # type: ignore[arg-type]
        if getattr(record, one.name) != one.default
    }


def _option_fields(record: type) -> Iterator[OptionField]:
    hints = get_type_hints(record, include_extras=True)
    for one in fields(record):
        if get_origin(hints[one.name]) is Annotated:
            kind, option = get_args(hints[one.name])
            yield OptionField(name=one.name, type=kind, default=one.default, option=option)
