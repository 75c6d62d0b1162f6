"""A prompt as tokens, in the words of the template that the model was trained with."""

from typing import Any

from scalenet_cli.errors import CheckpointUnreadable, OptionError
from scalenet_cli.tasks.causal_lm.data.chat import TemplateRefused, render_chat
from scalenet_cli.tasks.causal_lm.data.templates import ALPACA, Chosen
from scalenet_cli.tasks.causal_lm.data.tokenizers import encode_open


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
        ids = encode_open(tokenizer, text)
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
