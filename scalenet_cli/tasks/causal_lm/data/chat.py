"""Conversations as text, by the tokenizer's own chat template."""

from collections.abc import Mapping, Sequence
from typing import Any, Final, final

Messages = Sequence[Mapping[str, Any]]

# 26 Jul 2024, at midnight: the day that Llama 3.2's own template falls back to.
_DATE: Final = {
    "%Y": "2024", "%y": "24", "%B": "July", "%b": "Jul", "%m": "07", "%-m": "7", "%d": "26",
    "%-d": "26", "%e": "26", "%j": "208", "%A": "Friday", "%a": "Fri", "%F": "2024-07-26",
    "%H": "00", "%I": "12", "%p": "AM", "%M": "00", "%S": "00", "%T": "00:00:00",
}  # fmt: skip
_CLOCK: Final = "strftime_now"
# A macro, because transformers 5.23 hands no function of its caller to a template. The line end is
# the block's own, so that the template begins as at the beginning of a file.
_STOPPED_CLOCK: Final = (
    f"{{% macro {_CLOCK}(format) %}}{{{{ format"
    + "".join(f"|replace('{directive}', '{value}')" for directive, value in _DATE.items())
    + " }}{% endmacro %}\n"
)


@final
class TemplateRefused(Exception):
    """A chat template cannot write these messages; its text says why, and the caller where."""


def render_chat(
    tokenizer: Any,
    messages: Messages,
    *,
    tools: Sequence[Any] = (),
    ask: bool = False,
    fixed_date: bool = False,
) -> str:
    """Messages as text, with all special tokens; ``ask`` ends where an answer begins.

    Some templates write the day. With ``fixed_date`` it is 26 Jul 2024, and not today.

    Raises:
        TemplateRefused: the template is damaged, or is not made for such messages.
    """
    from jinja2 import TemplateError

    try:
        template: str = tokenizer.get_chat_template()
        if fixed_date and _CLOCK in template:
            template = _STOPPED_CLOCK + template
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            chat_template=template,
            tokenize=False,
            add_generation_prompt=ask,
        )
    # A template is a program of strangers, and fails as programs do.
    except (
        TemplateError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
        ArithmeticError,
    ) as error:  # fmt: skip
        raise TemplateRefused(str(error)[:300] or type(error).__name__) from None
    return text
