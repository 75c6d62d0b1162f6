"""Records as text for training, with the parts of it that are to be learned."""

from dataclasses import dataclass
from typing import Any, Final, Literal, final

from scalenet_cli.errors import DataUnreadable, OptionError
from scalenet_cli.language.chat import Messages, TemplateRefused, render_chat
from scalenet_cli.language.records import Record, text_of, whole_text

Template = Literal["auto", "chat", "alpaca", "none"]
Span = tuple[int, int]

# As published with the Alpaca data; the paper finetunes on them.
ALPACA: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n### Instruction:\n{instruction}\n\n### Response:\n"
)
ALPACA_INPUT: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n"
    "{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
# A record with one of these is no plain text, whatever else it has.
_FORMS: Final = ("messages", "instruction", "prompt")
# A private character, which no template trims or looks at.
_STAND_IN: Final = "\ue000"
EXPECTED: Final = (
    "a record has instruction and output (and input), or prompt and completion, or messages, or "
    "text"
)


@final
@dataclass(frozen=True, slots=True)
class Example:
    """Text of one record; ``targets`` are the characters to be learned, as (begin, end).

    Plain text may be cut into pieces, anything else only at its end. ``closed`` says that the text
    has the special tokens of its beginning and end, as a chat template writes them. ``num_changed``
    answers are no targets, because the template writes them otherwise once a turn follows.
    """

    text: str
    targets: tuple[Span, ...]
    place: str
    is_plain: bool = False
    closed: bool = False
    num_changed: int = 0


@final
class ExampleMaker:
    """Turns records into examples, by the template that was asked for or the model's own."""

    def __init__(self, tokenizer: Any, template: Template, *, train_on_prompt: bool) -> None:
        """Chooses the template.

        Raises:
            OptionError: a chat template is asked for, and there is none.
        """
        self._tokenizer, self._train_on_prompt = tokenizer, train_on_prompt
        has_chat = bool(tokenizer.chat_template)
        if template == "chat" and not has_chat:
            raise OptionError(
                "template is chat, but the tokenizer has no chat template",
                hint="leave template out for Alpaca's, or put a chat_template.jinja beside the "
                "tokenizer",
            )
        own: Template = "chat" if has_chat else "alpaca"
        self.template: Template = own if template == "auto" else template

    def make(self, record: Record) -> Example | None:
        """The example of a record; None where there is nothing to learn in it.

        Raises:
            DataUnreadable: it has not the fields that were expected.
        """
        fields = record.fields
        if "messages" in fields:
            return self._conversation(_messages(record), record)
        if "instruction" in fields:
            return self._instruction(record)
        if "prompt" in fields:
            prompt, completion = text_of(record, "prompt"), text_of(record, "completion")
            return self._completed(prompt, completion, record)
        if "text" in fields:
            text = text_of(record, "text")
            whole = ((0, len(text)),)
            return Example(text, whole, record.place, is_plain=True) if text.strip() else None
        raise DataUnreadable(
            f"the record has {', '.join(map(str, fields)) or 'no fields'}",
            where=record.place,
            hint=EXPECTED,
        )

    def _instruction(self, record: Record) -> Example | None:
        instruction, output = text_of(record, "instruction"), text_of(record, "output")
        given = record.fields.get("input")
        context = text_of(record, "input") if given is not None else ""
        plain = f"{instruction}\n\n{context}" if context.strip() else instruction
        if self.template == "chat":
            answer = {"role": "assistant", "content": output}
            messages = [{"role": "user", "content": plain}, answer]
            return self._conversation(messages, record) if output.strip() else None
        if self.template == "none":
            return self._completed(f"{plain}\n\n", output, record)
        template = ALPACA_INPUT if context.strip() else ALPACA
        prompt = template.format(instruction=instruction, input=context)
        return self._completed(prompt, output, record)

    def _completed(self, prompt: str, completion: str, record: Record) -> Example | None:
        if not completion.strip():
            return None
        text = prompt + completion
        begin = 0 if self._train_on_prompt else len(prompt)
        return Example(text, ((begin, len(text)),), record.place)

    def _conversation(self, messages: Messages, record: Record) -> Example | None:
        if self.template != "chat":
            raise DataUnreadable(
                "the record has messages, but the template is not the model's chat template",
                where=record.place,
                hint="the tokenizer has none: put a chat_template.jinja beside it"
                if not self._tokenizer.chat_template
                else "leave out the recipe's template, or set it to chat",
            )
        text = self._render(messages, record)
        if self._train_on_prompt:
            return Example(text, ((0, len(text)),), record.place, closed=True)
        answers = [
            order
            for order, message in enumerate(messages)
            if message["role"] == "assistant" and message["content"].strip()
        ]
        if not answers:
            return None
        found = [self._answer(messages, order, text, record) for order in answers]
        targets = tuple(span for span in found if span is not None)
        changed = len(found) - len(targets)
        return Example(text, targets, record.place, closed=True, num_changed=changed)

    def _answer(self, messages: Messages, order: int, text: str, record: Record) -> Span | None:
        """Where a turn stands in the whole text; None where it is written otherwise there."""
        after = self._render(messages[: order + 1], record)
        if order:
            before = self._render(messages[:order], record, ask=True)
        else:  # no template writes a conversation without a turn
            other = [{**messages[0], "content": _STAND_IN}]
            before = self._render(other, record).partition(_STAND_IN)[0]
        alike = text.startswith(after) and after.startswith(before)
        return (len(before), len(after)) if alike else None

    def _render(self, messages: Messages, record: Record, *, ask: bool = False) -> str:
        """With a fixed date: the tokens of a run are to be the same on every day."""
        try:
            return render_chat(self._tokenizer, messages, ask=ask, fixed_date=True)
        except TemplateRefused as error:
            raise DataUnreadable(
                f"the chat template refuses the record: {error}", where=record.place
            ) from None


def is_plain(record: Record) -> bool:
    """Whether a record is text alone, all of which is learned."""
    return "text" in record.fields and not any(name in record.fields for name in _FORMS)


def _messages(record: Record) -> list[dict[str, str]]:
    """Checked turns of a conversation.

    Raises:
        DataUnreadable: a turn is no object with a role and a content of text.
    """
    turns = record.fields["messages"]
    if not isinstance(turns, list) or not turns:
        raise DataUnreadable("messages is no list of turns", where=record.place, hint=_TURN)
    messages = []
    for order, turn in enumerate(turns):
        role = turn.get("role") if isinstance(turn, dict) else None
        content = turn.get("content") if isinstance(turn, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataUnreadable(
                f"messages[{order}] has no role and content of text",
                where=record.place,
                hint=_TURN,
            )
        for text in (role, content):
            whole_text(text, f"messages[{order}]", record)
        messages.append({"role": role, "content": content})
    return messages


_TURN: Final = 'a turn is {"role": "user" or "assistant" or "system", "content": "..."}'
