"""New text from new tokens, handed out as soon as it is certain."""

from collections.abc import Callable
from typing import Any, Final, final

import torch

# What a decoder writes for a character whose bytes are not all there.
_BROKEN: Final = "\ufffd"
# Far more tokens than a character has bytes: what is broken by then stays broken.
_MOST_HELD: Final = 32


@final
class TextStream:
    """A streamer of transformers, which gets the prompt's tokens first, and then each new one.

    Decoders of sentencepiece drop the space that a text begins with, so new tokens are decoded
    behind some that were handed out before (the prompt's at first), and the text of those is taken
    off. Special tokens have no text.
    """

    def __init__(self, tokenizer: Any, listener: Callable[[str], None]) -> None:
        self._tokenizer, self._listener = tokenizer, listener
        self._known: list[int] = []  # tokens that were handed out last,
        self._known_text = ""  # their text,
        self._held: list[int] = []  # and tokens after them
        self._is_begun = False
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        """All that was handed out."""
        return "".join(self._pieces)

    def put(self, tokens: torch.Tensor) -> None:
        """The prompt, or what follows it."""
        self._held += tokens.flatten().tolist()
        if not self._is_begun:
            self._is_begun = True
            self._go_on()
            return
        text = self._decode([*self._known, *self._held])
        if text == self._known_text:
            self._held = []
        elif not text.endswith(_BROKEN) or len(self._held) >= _MOST_HELD:
            self._hand_out(text)

    def end(self) -> None:
        """Nothing follows: what was held back is handed out as it is."""
        if self._held:
            self._hand_out(self._decode([*self._known, *self._held]))

    def _hand_out(self, text: str) -> None:
        # Bytes that make no character may break those of the character before them.
        whole = text.startswith(self._known_text)
        piece = text[len(self._known_text) :] if whole else self._decode(self._held)
        self._pieces.append(piece)
        self._listener(piece)
        self._go_on()

    def _go_on(self) -> None:
        self._known, self._held = self._held, []
        self._known_text = self._decode(self._known)

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(
            tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
