"""What ``scalenet generate`` reports."""

from typing import Literal

from pydantic import Field

from scalenet_cli.reports.base import Report


class GenerateReport(Report):
    """What a model wrote."""

    prompt: str = Field(description="as it was given")
    text: str = Field(description="what follows the prompt, without special tokens")
    tokens: int = Field(description="new tokens")
    seconds: float = Field(description="from the first pass over the prompt to the last token")
    prompt_tokens: int = Field(description="with its template")
    template: Literal["chat", "alpaca", "none"] = Field(
        description="what the prompt was put into; `none`: it stands as it is"
    )
    stopped: Literal["end", "length"] = Field(
        description="`end`: the model ended the text, or its generation config did; `length`: no "
        "more tokens were allowed"
    )
    notes: tuple[str, ...] = Field(description="decisions that the user should hear of")
