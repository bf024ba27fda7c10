"""Talking to a model: one prompt at a time, the answer piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch

from clearppo.batch import Prompts
from clearppo.data import encode_prompts


@runtime_checkable
class Speaker(Protocol):
    """A sampler that shows an answer while it grows."""

    @property
    def device(self) -> torch.device: ...

    def stream(self, prompts: Prompts) -> Iterator[str]: ...


@dataclass(frozen=True, kw_only=True)
class Talker:
    """A sampler with the tokenizer and the room that its model has for a prompt."""

    sampler: Speaker
    tokenizer: Any
    room: int | None

    @property
    def has_template(self) -> bool:
        """Whether the model knows conversations."""
        return bool(self.tokenizer.chat_template)

    def answer(self, prompt: Any) -> Iterator[str]:
        """The answer to a text or to a list of messages. Raises DataError if the prompt does not fit the context."""
        prompts = encode_prompts(
            [{"prompt": prompt}], self.tokenizer, max_prompt_length=None, room=self.room, source="the conversation"
        )
        batch = prompts.batch([0], int(self.tokenizer.eos_token_id or 0))
        yield from self.sampler.stream(batch.to(self.sampler.device))
