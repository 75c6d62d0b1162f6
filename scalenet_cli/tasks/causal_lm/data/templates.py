"""The templates that write instructions, conversations and prompts, and which one it is."""

from typing import Any, Final, Literal

from scalenet_cli.errors import OptionError

Template = Literal["auto", "chat", "alpaca", "none"]
Chosen = Literal["chat", "alpaca", "none"]

# As published with the Alpaca data; the paper finetunes on them.
_TASK: Final = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request."
)
_TASK_INPUT: Final = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request."
)
_ASKED: Final = "\n\n### Instruction:\n{instruction}\n\n### Response:\n"
_ASKED_INPUT: Final = (
    "\n\n### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
ALPACA: Final = f"{_TASK}{_ASKED}"
# What stands before an answer without any words around it.
BARE: Final = "{instruction}\n\n"


def alpaca_prompt(instruction: str, context: str, system: str) -> str:
    r"""An instruction in Alpaca's words; a system prompt takes the place of their first sentences.

    So does LLaMA-Factory's template of this name.

    >>> alpaca_prompt("Do it.", "", "Be brief.")
    'Be brief.\n\n### Instruction:\nDo it.\n\n### Response:\n'
    """
    if context.strip():
        asked = _ASKED_INPUT.format(instruction=instruction, input=context)
        return f"{system or _TASK_INPUT}{asked}"
    return f"{system or _TASK}{_ASKED.format(instruction=instruction)}"


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
