"""Each token's own piece of a text."""

from collections.abc import Sequence
from typing import Any

HALF = "\ufffd"
"""How tokenizers write bytes that are no whole character (yet)."""


class Pieces:
    """The pieces of text that tokens stand for; joined they are the text, with special tokens, as it reads after other
    text (so a first word keeps its space).

    Of a character that several tokens make the last one has it, and the ones before have an empty piece.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._before: list[int] = list(tokenizer("a", add_special_tokens=False)["input_ids"])
        self._prefix = self._decoded(self._before)
        self._alone: dict[int, str] = {}

    def __call__(self, ids: Sequence[int]) -> list[str]:
        pieces: list[str] = []
        start = 0  # of the tokens that are no whole characters by themselves, and stand together
        for end, token in enumerate(ids):
            if HALF not in self._piece(token):
                pieces += self._joined(ids[start:end])
                pieces.append(self._piece(token))
                start = end + 1
        return pieces + self._joined(ids[start:])

    def _joined(self, ids: Sequence[int]) -> list[str]:
        """The pieces of tokens in which characters begin or end."""
        pieces, said = list[str](), ""
        for end in range(1, len(ids) + 1):
            text = self._text(ids[:end])
            whole = text if end == len(ids) else text.rstrip(HALF)
            whole = whole if whole.startswith(said) else said
            pieces.append(whole[len(said) :])
            said = whole
        return pieces

    def _piece(self, token: int) -> str:
        if token not in self._alone:
            self._alone[token] = self._text([token])
        return self._alone[token]

    def _text(self, ids: Sequence[int]) -> str:
        """The text of these tokens behind other text."""
        return self._decoded([*self._before, *ids]).removeprefix(self._prefix)

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
