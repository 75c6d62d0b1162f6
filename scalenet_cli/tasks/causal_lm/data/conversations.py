"""Conversations of records, in the forms that are about, as turns for a chat template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of, whole_text

Turn = Mapping[str, Any]

ANSWERING: Final = "assistant"
# Turns that say how to answer, and stand before all others.
_GUIDING: Final = ("system", "developer")
_ASKING: Final = (*_GUIDING, "user", "tool", "function", "ipython", "observation")
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
    else it has is the template's business. ``read`` names the record's fields that are in it.
    """

    turns: tuple[Turn, ...]
    learned: tuple[bool, ...]
    tools: tuple[Any, ...] = ()
    read: frozenset[str] = frozenset()


def conversation(record: Record, field: str) -> Conversation:
    """The conversation in a field of a record.

    Raises:
        DataUnreadable: a turn is no object with a role and a content, or nobody answers.
    """
    turns, learned = _turns(record, field)
    roles = sorted({str(turn["role"]) for turn in turns})
    if ANSWERING not in roles and not set(roles) <= {*_ASKING}:
        raise DataUnreadable(
            f"no turn of {field} has the role {ANSWERING}, but {', '.join(roles)}",
            where=record.place,
            hint=_TURN,
        )
    return _whole(record, turns, learned, {field})


def completed_conversation(record: Record) -> Conversation:
    """A prompt of turns and a completion of turns, of which only the latter are learned.

    Raises:
        DataUnreadable: one of them is no list of turns.
    """
    asked, _ = _turns(record, "prompt")
    answers, learned = _turns(record, "completion")
    unlearned = tuple(False for _ in asked)
    return _whole(record, (*asked, *answers), (*unlearned, *learned), {"prompt", "completion"})


def instructed_conversation(record: Record, asked: str, answer: str) -> Conversation:
    """What was said earlier, an instruction and its answer; earlier answers are learned as well.

    Raises:
        DataUnreadable: the history is no list of pairs, or another field is not what it should be.
    """
    earlier = history(record)
    turns = (*earlier, {"role": "user", "content": asked}, {"role": ANSWERING, "content": answer})
    read = {"instruction", "input", "output"} | ({"history"} if earlier else set())
    return _whole(record, turns, tuple(_is_answer(turn) for turn in turns), read)


def history(record: Record) -> tuple[Turn, ...]:
    """The turns before an Alpaca record's instruction, which LLaMA-Factory's data have as pairs.

    Raises:
        DataUnreadable: a list, but not of pairs of an instruction and its answer.
    """
    pairs = record.fields.get("history")
    turns: list[Turn] = []
    for order, pair in enumerate(pairs if isinstance(pairs, list) else ()):
        if not isinstance(pair, list | tuple) or [type(part) for part in pair] != [str, str]:
            raise DataUnreadable(
                f"history[{order}] is no pair of texts",
                where=record.place,
                hint='history is a list of earlier turns, [["instruction", "answer"], ...]',
            )
        for role, text in zip(("user", ANSWERING), pair, strict=True):
            content = whole_text(text, f"history[{order}]", record)
            turns.append({"role": role, "content": content})
    return tuple(turns)


def system_prompt(record: Record) -> str:
    """The field ``system``, which stands beside a record's turns or instruction; or nothing.

    Raises:
        DataUnreadable: it is no text.
    """
    system = "" if record.fields.get("system") is None else text_of(record, "system")
    return system if system.strip() else ""


def _whole(
    record: Record, turns: tuple[Turn, ...], learned: tuple[bool, ...], read: set[str]
) -> Conversation:
    """A record's turns with what stands beside them: tools, and a system prompt before all others.

    Turns that begin with another system prompt keep that one; the record's is then not read.
    """
    system, read = system_prompt(record), {*read, "tools"}
    guided = turns[0]["role"] in _GUIDING
    if system and not guided:
        turns = ({"role": "system", "content": system}, *turns)
        learned = (False, *learned)
    if not guided or turns[0].get("content") == system:
        read.add("system")
    return Conversation(turns, learned, _tools(record), frozenset(read))


def _is_answer(turn: Turn) -> bool:
    """Whether the model is the one who speaks, and says anything."""
    if turn["role"] != ANSWERING:
        return False
    return bool((turn.get("content") or "").strip()) or any(turn.get(key) for key in _INSTEAD)


def _turns(record: Record, field: str) -> tuple[tuple[Turn, ...], tuple[bool, ...]]:
    """The turns in a field, and which of them may be learned."""
    turns = record.fields.get(field)
    if not isinstance(turns, list) or not turns:
        raise DataUnreadable(f"{field} is no list of turns", where=record.place, hint=_TURN)
    marked = [_turn(turn, f"{field}[{order}]", record) for order, turn in enumerate(turns)]
    return (
        tuple(turn for turn, _ in marked),
        tuple(wanted and _is_answer(turn) for turn, wanted in marked),
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
