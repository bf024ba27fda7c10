"""The language-model head of an actor, and what is read through it from the last hidden states."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from clearppo.core.head import by_rows, log_probs_and_entropy_from_hidden, log_probs_from_hidden, rows_at_once
from clearppo.core.kl import full_kl
from clearppo.core.logprobs import log_probs, log_probs_and_entropy


def as_it_is(logits: Tensor) -> Tensor:
    """The rule of most models: the head's output is the logits."""
    return logits


@dataclass(frozen=True)
class Head:
    """A layer, and the rule that turns its output into the model's own logits (some families cap or scale them).

    None of what is read keeps the logits of all tokens. A plain linear layer goes the fused way of core/head.py; any
    other one, and a rule, go through the logits of a few rows at a time, computed again in the backward pass.
    The caller opens the actor's `precision()`. All results are in nats, in float32 at least.
    """

    layer: Any
    rule: Callable[[Tensor], Tensor] = as_it_is

    @property
    def is_plain(self) -> bool:
        return self.rule is as_it_is and type(self.layer) is nn.Linear  # a LoRA layer is none

    @property
    def bare(self) -> "Head":
        """The same without adapters, if the layer has any."""
        return Head(self.layer.get_base_layer() if hasattr(self.layer, "get_base_layer") else self.layer, self.rule)

    def logits(self, hidden: Float[Tensor, "*shape H"]) -> Float[Tensor, "*shape V"]:
        """The model's logits, in float32 at least."""
        logits = self.rule(self.layer(hidden))
        return logits if logits.dtype == torch.float64 else logits.float()

    def log_probs(
        self, hidden: Float[Tensor, "N H"], tokens: Int[Tensor, " N"], temperature: float | int = 1.0
    ) -> Float[Tensor, " N"]:
        """log p(token) after each state."""
        if self.is_plain:
            return log_probs_from_hidden(hidden, self.layer.weight, tokens, temperature, self.layer.bias)
        return by_rows(lambda h, t: log_probs(self.logits(h), t, temperature), hidden, tokens, rows=self._rows(hidden))

    def log_probs_and_entropy(
        self, hidden: Float[Tensor, "N H"], tokens: Int[Tensor, " N"], temperature: float | int = 1.0
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """log p(token) after each state, and the entropy of the distribution there."""
        if self.is_plain:
            return log_probs_and_entropy_from_hidden(hidden, self.layer.weight, tokens, temperature, self.layer.bias)
        rows = self._rows(hidden)
        return by_rows(lambda h, t: log_probs_and_entropy(self.logits(h), t, temperature), hidden, tokens, rows=rows)

    def full_kl(
        self,
        hidden: Float[Tensor, "N H"],
        other: "Head",
        other_hidden: Float[Tensor, "N H"],
        temperature: float | int = 1.0,
    ) -> Float[Tensor, " N"]:
        """KL(p || q) over the whole vocabulary, q of the other head on its own states; gradients of p only."""

        def of_rows(h: Tensor, other_h: Tensor) -> Tensor:
            with torch.no_grad():
                other_logits = other.logits(other_h)
            return full_kl(self.logits(h), other_logits, temperature)

        return by_rows(of_rows, hidden, other_hidden, rows=self._rows(hidden))

    def _rows(self, hidden: Tensor) -> int:
        return rows_at_once(self.layer.weight.shape[0], hidden.device)
