"""Causal language modelling: the next token of a text."""

from typing import Final

NAME: Final = "causal-lm"
