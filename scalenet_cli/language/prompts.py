"""A prompt as tokens, in the words of the template that the model was trained with."""

from typing import Any, Literal

from scalenet_cli.errors import CheckpointUnreadable, OptionError
from scalenet_cli.language.chat import TemplateRefused, render_chat
from scalenet_cli.language.examples import ALPACA, Template

Chosen = Literal["chat", "alpaca", "none"]


def choose_template(tokenizer: Any, template: Template, *, otherwise: Chosen) -> Chosen:
    """``auto`` is the tokenizer's chat template, or ``otherwise`` where it has none.

    Raises:
        OptionError: a chat template is asked for, and there is none.
    """
    has_chat = bool(tokenizer.chat_template)
    if template == "auto":
        return "chat" if has_chat else otherwise
    if template == "chat" and not has_chat:
        raise OptionError(
            "the template is chat, but the tokenizer has none",
            hint="use --template alpaca or none, or put a chat_template.jinja beside the tokenizer",
        )
    return template


def encode_prompt(
    tokenizer: Any, prompt: str, template: Chosen, *, system: str | None = None
) -> list[int]:
    """Token ids of a prompt that is to be answered, or, without a template, to go on.

    Raises:
        OptionError: the prompt has no token; it or the system message holds half a character; or
            the template has no place for a system message.
        CheckpointUnreadable: the chat template is damaged, or refuses the messages.
    """
    _require_whole("the prompt", prompt)
    if system is not None:
        _require_whole("--system", system)
        if template != "chat":
            raise OptionError(
                f"--system needs a chat template, but the prompt's template is {template}",
                hint="leave --system out, or write it into the prompt",
            )
    if not prompt:
        raise OptionError("the prompt is empty")
    if template == "chat":
        text = _conversation(tokenizer, prompt, system)
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    else:
        text = ALPACA.format(instruction=prompt) if template == "alpaca" else prompt
        ids = _encode_open(tokenizer, text)
    if not ids:
        raise OptionError("the prompt is empty")
    return ids


def _require_whole(what: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # bytes of a command line that are no text become surrogates
        raise OptionError(f"{what} holds half a character", hint="write it in UTF-8") from None


def _conversation(tokenizer: Any, prompt: str, system: str | None) -> str:
    """The user's turn, behind the system's, with the beginning of the answer."""
    turn = {"role": "user", "content": prompt}

    def written(said: str | None) -> str:
        opening = [] if said is None else [{"role": "system", "content": said}]
        return render_chat(tokenizer, [*opening, turn], ask=True)

    try:
        text = written(system)
        is_ignored = system is not None and text == written(f"{system}.")
    except TemplateRefused as error:
        raise CheckpointUnreadable(
            f"the chat template cannot be used: {error}",
            hint="use --template none" if system is None else "leave --system out",
        ) from None
    if is_ignored:
        raise OptionError("the chat template leaves --system out", hint="leave it out as well")
    return text


def _encode_open(tokenizer: Any, text: str) -> list[int]:
    """Token ids without an EOS that the tokenizer adds itself: the text is to go on."""
    ids: list[int] = tokenizer.encode(text, verbose=False)
    own: list[int] = tokenizer.encode(text, add_special_tokens=False, verbose=False)
    is_closed = ids[-len(own) - 1 :] == [*own, tokenizer.eos_token_id]
    return ids[:-1] if is_closed else ids
