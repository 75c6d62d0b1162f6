"""Conversations of records, in the forms that are about, as turns for a chat template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.language.records import Record, whole_text

Turn = Mapping[str, Any]

ANSWERING: Final = "assistant"
_ASKING: Final = ("system", "developer", "user", "tool", "function", "ipython", "observation")
# Of records with {from, value}: ShareGPT's names and those that came after it.
_SPEAKERS: Final[Mapping[str, str]] = {
    "human": "user", "user": "user", "gpt": ANSWERING, "assistant": ANSWERING,
    "chatgpt": ANSWERING, "model": ANSWERING, "system": "system", "tool": "tool",
    "observation": "tool", "function_response": "tool",
}  # fmt: skip
# What an answer may have in place of a content, or before it.
_INSTEAD: Final = {
    "tool_calls", "function_call", "reasoning_content", "reasoning", "thinking",
}  # fmt: skip
# Whether a turn is learned, as OpenAI's and axolotl's data say it; no template is shown these.
_MARKS: Final = ("weight", "train")
_TURN: Final = (
    'a turn is {"role": "user" or "assistant" or "system", "content": "..."}, or {"from": "human" '
    'or "gpt" or "system", "value": "..."}'
)


@final
@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns as a template reads them, which of them may be learned, and the tools it can name.

    A turn has a role, and a content or something in its place, such as ``tool_calls``; whatever
    else it has is the template's business.
    """

    turns: tuple[Turn, ...]
    learned: tuple[bool, ...]
    tools: tuple[Any, ...] = ()


def conversation(record: Record, field: str) -> Conversation:
    """The conversation in a field of a record.

    Raises:
        DataUnreadable: a turn is no object with a role and a content, or nobody answers.
    """
    found = _read(record, field)
    roles = sorted({str(turn["role"]) for turn in found.turns})
    if ANSWERING not in roles and not set(roles) <= {*_ASKING}:
        raise DataUnreadable(
            f"no turn of {field} has the role {ANSWERING}, but {', '.join(roles)}",
            where=record.place,
            hint=_TURN,
        )
    return found


def completed_conversation(record: Record) -> Conversation:
    """A prompt of turns and a completion of turns, of which only the latter are learned.

    Raises:
        DataUnreadable: one of them is no list of turns.
    """
    asked, answered = _read(record, "prompt"), _read(record, "completion")
    return Conversation(
        (*asked.turns, *answered.turns),
        (*(False for _ in asked.turns), *answered.learned),
        asked.tools,
    )


def _is_answer(turn: Turn) -> bool:
    """Whether the model is the one who speaks, and says anything."""
    if turn["role"] != ANSWERING:
        return False
    return bool((turn.get("content") or "").strip()) or any(turn.get(key) for key in _INSTEAD)


def _read(record: Record, field: str) -> Conversation:
    turns = record.fields.get(field)
    if not isinstance(turns, list) or not turns:
        raise DataUnreadable(f"{field} is no list of turns", where=record.place, hint=_TURN)
    marked = [_turn(turn, f"{field}[{order}]", record) for order, turn in enumerate(turns)]
    return Conversation(
        tuple(turn for turn, _ in marked),
        tuple(wanted and _is_answer(turn) for turn, wanted in marked),
        _tools(record),
    )


def _turn(value: object, name: str, record: Record) -> tuple[Turn, bool]:
    """One turn without its marks, and whether they allow that it is learned."""
    if not isinstance(value, dict):
        raise _no_turn(f"{name} is no object", record)
    turn = {key: part for key, part in value.items() if part is not None or key == "content"}
    if "from" in turn and "role" not in turn:
        turn["role"] = _SPEAKERS.get(str(turn.pop("from")).lower())
        turn["content"] = turn.pop("value", None)
    wanted = all(_mark(turn.pop(mark), f"{name}.{mark}", record) for mark in _MARKS if mark in turn)
    if isinstance(turn.get("content"), list):
        turn["content"] = _joined(turn["content"], name, record)
    role, content = turn.get("role"), turn.get("content")
    instead = content is None and not _INSTEAD.isdisjoint(turn)
    if not isinstance(role, str) or not (isinstance(content, str) or instead):
        raise _no_turn(f"{name} has no role and content of text", record)
    whole_text(json.dumps(turn, ensure_ascii=False, default=str), name, record)
    return turn, wanted


def _mark(value: object, name: str, record: Record) -> bool:
    if value not in (0, 1):
        raise _no_turn(f"{name} is neither 0 nor 1", record)
    return bool(value)


def _joined(parts: Sequence[object], name: str, record: Record) -> str:
    """The text of parts {type: text, text}, a line each."""
    texts = [part.get("text") if isinstance(part, dict) else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise _no_turn(f"{name} has a part that is no text", record)
    return "\n".join(map(str, texts))


def _tools(record: Record) -> tuple[Any, ...]:
    """The tools of a record: a list, which tables hold as JSON."""
    tools = record.fields.get("tools") or ()
    if isinstance(tools, str):
        try:
            tools = json.loads(tools)
        except (ValueError, RecursionError):
            tools = None
    if not isinstance(tools, list | tuple):
        raise DataUnreadable("tools is no list, nor JSON of one", where=record.place)
    whole_text(json.dumps(tools, ensure_ascii=False, default=str), "tools", record)
    return tuple(tools)


def _no_turn(fact: str, record: Record) -> DataUnreadable:
    return DataUnreadable(fact, where=record.place, hint=_TURN)
