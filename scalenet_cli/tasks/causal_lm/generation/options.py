"""How a language model goes on from a prompt."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from scalenet_cli.errors import OptionError
from scalenet_cli.tasks.causal_lm.data.templates import Template
from scalenet_cli.tasks.requests import Device, Precision

# Gets each piece of text as soon as it is certain.
Listener = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How to go on from a prompt.

    A temperature of 0 takes the most probable token; ``top_p`` and ``top_k`` need a higher one.
    ``template`` says how the prompt is written, in the words of a training recipe; ``auto`` is what
    the model was trained with here, or else the chat template where there is one. ``system`` is a
    message in front of it, in a chat template.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    seed: int = 0
    template: Template = "auto"
    system: str | None = None
    tokenizer: str | None = None
    device: Device = "auto"
    precision: Precision | None = None

    def __post_init__(self) -> None:
        # Below it, scores over the temperature leave float32.
        if self.temperature != 0 and not (1e-6 <= self.temperature < math.inf):
            raise OptionError(
                f"--temperature is {self.temperature}, and has to be 0, or 1e-06 or more"
            )
        if self.max_new_tokens < 1:
            raise OptionError(f"--max-new-tokens is {self.max_new_tokens}, and has to be 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise OptionError(f"--top-p is {self.top_p}, and has to be above 0 and at most 1")
        if self.top_k is not None and self.top_k < 1:
            raise OptionError(f"--top-k is {self.top_k}, and has to be 1 or more")
        for name, value in (("--top-p", self.top_p), ("--top-k", self.top_k)):
            if value is not None and self.temperature == 0:
                raise OptionError(
                    f"{name} chooses among tokens, but --temperature 0 takes the first",
                    hint="add --temperature 0.7, for example",
                )
