"""One record of text, with its place for messages, and what is read of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scalenet_cli.errors import DataUnreadable


@dataclass(frozen=True, slots=True)
class Record:
    """One object of the data. ``place`` is ``file.jsonl:17``, ``file.json[3]``, ``NAME train[5]``.

    Lines are counted from 1, positions from 0.
    """

    fields: Mapping[str, Any]
    place: str


def text_of(record: Record, name: str) -> str:
    """One field, which has to be a text.

    Raises:
        DataUnreadable: it is missing, no text, or holds half a character.
    """
    value = record.fields.get(name)
    if not isinstance(value, str):
        found = f"is {value_kind(value)}" if name in record.fields else "is missing"
        raise DataUnreadable(
            f"the field {name} {found}, and has to be a text",
            where=record.place,
            hint=f"fields of this record: {', '.join(map(str, record.fields)) or 'none'}",
        )
    return whole_text(value, f"the field {name}", record)


def whole_text(text: str, name: str, record: Record) -> str:
    """A text without half a surrogate pair, which JSON can spell and no tokenizer can read.

    Raises:
        DataUnreadable: there is one.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataUnreadable(f"{name} holds half a character", where=record.place) from None
    return text


def row_record(row: Mapping[str, Any], place: str) -> Record:
    """A row of a table. Its columns are of all rows, so that what a record has not is null there.

    So it is with the objects inside.

    >>> row_record({"text": "a", "tools": [{"x": 1, "y": None}], "messages": None}, "[0]").fields
    {'text': 'a', 'tools': [{'x': 1}]}
    """
    return Record(_without_nulls(dict(row)), place)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value


def value_kind(value: object) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    names |= {int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), f"a {type(value).__name__}")
