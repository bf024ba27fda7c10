"""Cutting an answer for its readers only: the policy learns from all tokens, the scorers see the beginning."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Bool, Int
from torch import Tensor

from clearppo.batch import FinishReason
from clearppo.errors import ConfigError
from clearppo.rollout.sampler import TextDecoder


@runtime_checkable
class TextCoder(TextDecoder, Protocol):
    """A tokenizer that can also say which token a text is."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]: ...


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """What is read of an answer: up to and with its first `token_id` at index `after` or later (tokens, from 0).

    An answer that has one there has come to an end ("stop"); one that has none is read whole and has not ("length"),
    however sampling itself finished. Source: lm-human-preferences (lm_tasks.py:39-65), where answers have a fixed
    length and the reward model reads them up to the first full stop. There the score, the KL and the loss still run
    over all tokens, and so they do here: the score lands on the last one, behind the cut.

    Raises ConfigError if `after` is negative.
    """

    token_id: int
    after: int
    tokenizer: TextDecoder

    def __post_init__(self) -> None:
        if self.after < 0:
            raise ConfigError(
                f"truncate_after = {self.after}; it counts tokens of the answer and must be 0 or more. "
                "Use --truncate_after 0."
            )

    @classmethod
    def from_text(cls, text: str, after: int, tokenizer: TextCoder) -> "Truncation":
        """The truncation at the token that is spelled `text`, such as "." or a line end.

        Raises ConfigError if `text` is not one token of this tokenizer, or `after` is negative.
        """
        return cls(token_id=_single_token(text, tokenizer), after=after, tokenizer=tokenizer)

    def read(
        self, responses: Int[Tensor, "B T"], mask: Bool[Tensor, "B T"]
    ) -> tuple[tuple[str, ...], tuple[FinishReason, ...]]:
        """(completions, finish reasons) of these answers; special tokens are left out of the text."""
        completions: list[str] = []
        reasons: list[FinishReason] = []
        for row, keeps in zip(responses, mask, strict=True):
            tokens = row[keeps].tolist()
            end = next((t for t, token in enumerate(tokens) if t >= self.after and token == self.token_id), None)
            read = tokens if end is None else tokens[: end + 1]
            completions.append(str(self.tokenizer.decode(read, skip_special_tokens=True)))
            reasons.append("length" if end is None else "stop")
        return tuple(completions), tuple(reasons)


def _single_token(text: str, tokenizer: TextCoder) -> int:
    # First as it stands in an answer, behind something: Llama 2 writes a "." that begins a text as another token than
    # the one that ends a sentence. Alone if it merges with what stands before it.
    alone = tokenizer.encode(text, add_special_tokens=False)
    before = tokenizer.encode("a", add_special_tokens=False)
    behind = tokenizer.encode("a" + text, add_special_tokens=False)
    candidates = [behind[len(before) :]] if behind[: len(before)] == before else []
    for ids in [*candidates, alone]:
        if len(ids) == 1 and _reads_as(tokenizer.decode(ids), text):  # the unknown token does not
            return ids[0]
    pieces = [repr(tokenizer.decode([token])) for token in alone]
    seen = f"{len(alone)} token{'s' * (len(alone) != 1)}"
    listed = f" ({', '.join(pieces[:5])}{', ...' if len(pieces) > 5 else ''})" if pieces else ""
    raise ConfigError(
        f"truncate_token = {text!r} is {seen}{listed} to the model's tokenizer; it must be exactly one that it knows. "
        "Use a shorter text, such as --truncate_token '.'"
    )


def _reads_as(decoded: str, text: str) -> bool:
    # Decoders may drop the space that begins a token, or add one.
    return decoded == text or (text.strip() != "" and decoded.strip() == text.strip())
