"""Records as text for training, with the parts of it that are to be learned."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, final

from scalenet_cli.errors import DataUnreadable
from scalenet_cli.tasks.causal_lm.data.chat import TemplateRefused, render_chat
from scalenet_cli.tasks.causal_lm.data.conversations import (
    Conversation,
    completed_conversation,
    conversation,
    history,
    instructed_conversation,
    system_prompt,
)
from scalenet_cli.tasks.causal_lm.data.fields import UnreadFields
from scalenet_cli.tasks.causal_lm.data.record import Record, text_of
from scalenet_cli.tasks.causal_lm.data.templates import (
    BARE,
    Template,
    alpaca_prompt,
    choose_template,
)

Span = tuple[int, int]

Form = Literal["messages", "conversations", "instruction", "prompt", "text"]
# The fields of each form; the first that a record has is what it is.
_FORMS: Final[Mapping[Form, tuple[str, ...]]] = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "instruction": ("instruction", "output"),
    "prompt": ("prompt", "completion"),
    "text": ("text",),
}
# A private character, which no template trims or looks at.
_STAND_IN: Final = "\ue000"
EXPECTED: Final = (
    "a record has instruction and output (and input), or prompt and completion, or messages (or "
    "conversations), or text"
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
    """Turns records into examples, by the template that was asked for or the model's own.

    ``is_used`` says whether a record was one that a template writes; ``unread`` counts the fields
    that are in no example.
    """

    def __init__(self, tokenizer: Any, template: Template, *, train_on_prompt: bool) -> None:
        """Chooses the template.

        Raises:
            OptionError: a chat template is asked for, and there is none.
        """
        self._tokenizer, self._train_on_prompt = tokenizer, train_on_prompt
        self.template: Final = choose_template(tokenizer, template, otherwise="alpaca")
        self.is_used = False
        self.unread: Final = UnreadFields()

    def make(self, record: Record) -> Example | None:
        """The example of a record; None where there is nothing to learn in it.

        Raises:
            DataUnreadable: it has not the fields that were expected.
        """
        match _form(record):
            case "messages" | "conversations" as form:
                return self._conversation(conversation(record, form), record)
            case "instruction":
                return self._instruction(record)
            case "prompt":
                return self._completion(record)
            case "text":
                self.unread.add(record, {"text"})
                text = text_of(record, "text")
                whole = ((0, len(text)),)
                return Example(text, whole, record.place, is_plain=True) if text.strip() else None
        raise DataUnreadable(
            f"the record has {', '.join(map(str, record.fields)) or 'no fields'}",
            where=record.place,
            hint=EXPECTED,
        )

    def _instruction(self, record: Record) -> Example | None:
        self.is_used = True
        instruction, output = text_of(record, "instruction"), text_of(record, "output")
        given = record.fields.get("input")
        context = text_of(record, "input") if given is not None else ""
        plain = f"{instruction}\n\n{context}" if context.strip() else instruction
        if self.template == "chat" or history(record):
            found = instructed_conversation(record, plain, output)
            return self._conversation(found, record) if any(found.learned) else None
        system = system_prompt(record)
        if self.template == "none":
            prompt = BARE.format(instruction=f"{system}\n\n{plain}" if system else plain)
        else:
            prompt = alpaca_prompt(instruction, context, system)
        return self._completed(prompt, output, record, {*_FORMS["instruction"], "input", "system"})

    def _completion(self, record: Record) -> Example | None:
        if isinstance(record.fields["prompt"], list):
            return self._conversation(completed_conversation(record), record)
        prompt, completion = text_of(record, "prompt"), text_of(record, "completion")
        return self._completed(prompt, completion, record, _FORMS["prompt"])

    def _completed(
        self, prompt: str, completion: str, record: Record, read: Collection[str]
    ) -> Example | None:
        self.unread.add(record, read)
        if not completion.strip():
            return None
        text = prompt + completion
        begin = 0 if self._train_on_prompt else len(prompt)
        return Example(text, ((begin, len(text)),), record.place)

    def _conversation(self, found: Conversation, record: Record) -> Example | None:
        if self.template != "chat":
            raise DataUnreadable(
                "the record is a conversation (it has turns, a system text or a history), but the "
                "template is not the model's chat template",
                where=record.place,
                hint="the tokenizer has none: put a chat_template.jinja beside it"
                if not self._tokenizer.chat_template
                else "leave out the recipe's template, or set it to chat",
            )
        self.is_used = True
        self.unread.add(record, found.read)
        text = self._render(found, record)
        if self._train_on_prompt:
            return Example(text, ((0, len(text)),), record.place, closed=True)
        answers = [order for order, learned in enumerate(found.learned) if learned]
        if not answers:
            return None
        spans = [self._answer(found, order, text, record) for order in answers]
        targets = tuple(span for span in spans if span is not None)
        changed = len(spans) - len(targets)
        return Example(text, targets, record.place, closed=True, num_changed=changed)

    def _answer(self, found: Conversation, order: int, text: str, record: Record) -> Span | None:
        """Where a turn stands in the whole text; None where it is written otherwise there."""
        turns = found.turns[: order + 1]
        after = self._render(replace(found, turns=turns), record)
        before = ""
        if order:  # no template writes a conversation without a turn
            before = self._render(replace(found, turns=turns[:-1]), record, ask=True)
        # Some templates ask for more than they write of an answer that is there: for its thoughts.
        if not order or not after.startswith(before):
            other = {"role": turns[-1]["role"], "content": _STAND_IN}
            rendered = self._render(replace(found, turns=(*turns[:-1], other)), record)
            before, stood, _ = rendered.partition(_STAND_IN)
            if not stood:
                return None
        alike = text.startswith(after) and after.startswith(before)
        return (len(before), len(after)) if alike else None

    def _render(self, found: Conversation, record: Record, *, ask: bool = False) -> str:
        """With a fixed date: the tokens of a run are to be the same on every day."""
        try:
            return render_chat(
                self._tokenizer, found.turns, tools=found.tools, ask=ask, fixed_date=True
            )
        except TemplateRefused as error:
            raise DataUnreadable(
                f"the chat template refuses the record: {error}", where=record.place
            ) from None


def is_plain(record: Record) -> bool:
    """Whether a record is text alone, all of which is learned."""
    return _form(record) == "text"


def has_answer(record: Record) -> bool:
    """Whether a record tells apart what is asked and what is answered."""
    return _form(record) not in ("text", None)


def _form(record: Record) -> Form | None:
    """What a record is; one that has a text besides half of another form is a text."""
    fields = record.fields
    for form, needed in _FORMS.items():
        if all(name in fields for name in needed) or (needed[0] in fields and "text" not in fields):
            return form
    return None
