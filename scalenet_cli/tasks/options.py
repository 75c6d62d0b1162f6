"""Options that belong to one task, declared as records, and the rule that refuses them elsewhere.

Nothing here, and in no ``tasks/*/options.py``, imports torch or pydantic: ``scalenet --help`` reads
the records of all tasks.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from importlib import import_module
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    final,
    get_args,
    get_origin,
    get_type_hints,
)

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks import TASKS

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

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


@final
class GivenOptions:
    """What the user gave on the command line of the options that belong to tasks.

    ``values`` has every option by name, ``given`` the names of those that were written.
    """

    def __init__(self, command: Command, values: Mapping[str, Any], given: frozenset[str]) -> None:
        self._command: Command = command
        self._values, self._given = values, given

    def record(self, task: str, where: str) -> Any:
        """The record of a task for this command; None where it has none.

        Raises:
            OptionError: an option was given that only other tasks have.
        """
        refuse_other_tasks(self._command, self._given, task, where)
        own = task_options(task)
        if self._command not in own.records:
            return None
        names = [one.name for one in own.fields(self._command)]
        return own.records[self._command](**{name: self._values[name] for name in names})

    def values_for(self, kind: type["DataclassInstance"]) -> dict[str, Any]:
        """The values of the options that options of Python have a field for, by name."""
        return {name: self._values[name] for name in _names(kind) & self._values.keys()}

    def given_beside(self, *kinds: type["DataclassInstance"]) -> dict[str, Any]:
        """What was given of the options that none of them has a field for, by name."""
        return {name: self._values[name] for name in self._given.difference(*map(_names, kinds))}


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


def fill_record(
    command: Command,
    task: str,
    *,
    held: Sequence["DataclassInstance"],
    more: Mapping[str, Any],
    where: str,
) -> Any:
    """The task's record for a command; None where it has none.

    Its fields come from the options of Python in ``held`` that have their names, and from ``more``,
    which are options by name that nothing in ``held`` has a field for.

    Raises:
        OptionError: an option was given that only other tasks have, or none.
    """
    own = task_options(task)
    names = {one.name for one in own.fields(command)}
    values = {name: getattr(one, name) for one in held for name in names & _names(one)}
    refuse_other_tasks(command, {*more}.union(*map(given_fields, held)), task, where)
    for name in more:
        if name in values:
            raise OptionError(f"{name} has a field of its own, and is not one of task_options")
        if name not in names:
            raise OptionError(f"{own.models} have no option {name}", where=where)
    return own.records[command](**values, **more) if command in own.records else None


def given_fields(record: "DataclassInstance") -> set[str]:
    """The names of a record's fields that have another value than their default."""
    return {one.name for one in fields(record) if getattr(record, one.name) != _default(one)}


def _default(one: "Field[Any]") -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _names(record: "DataclassInstance | type[DataclassInstance]") -> set[str]:
    return {one.name for one in fields(record)}


def _option_fields(record: type) -> Iterator[OptionField]:
    hints = get_type_hints(record, include_extras=True)
    for one in fields(record):
        if get_origin(hints[one.name]) is Annotated:
            kind, option = get_args(hints[one.name])
            yield OptionField(name=one.name, type=kind, default=one.default, option=option)
