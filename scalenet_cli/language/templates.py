"""The templates that write instructions, conversations and prompts, and which one it is."""

from typing import Any, Final, Literal

from scalenet_cli.errors import OptionError

Template = Literal["auto", "chat", "alpaca", "none"]
Chosen = Literal["chat", "alpaca", "none"]

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
# What stands before an answer without any words around it.
BARE: Final = "{instruction}\n\n"


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
            "the template is chat, but the tokenizer has no chat template",
            hint="choose alpaca or none, or put a chat_template.jinja beside the tokenizer",
        )
    return template
