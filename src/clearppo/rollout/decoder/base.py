"""The socket between the sampling loop and the network: a Decoder turns tokens into the next hidden states."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearppo.models.actor import Actor


@runtime_checkable
class Decoder(Protocol):
    """Live rows with their keys and values; each step appends one token to every row.

    Rows are numbered 0 to N - 1 in the order of the returned states; `keep` renumbers them. Nothing here needs
    gradients, and none are recorded.
    """

    joins: bool
    """Whether new rows may start while others are going on."""
    exact: bool
    """float32 or float64 arithmetic on the policy's own weights: log-probs equal the learner's to rounding."""
    why: str
    """Which way of decoding this is, and why it was chosen; half a sentence for the notice at start."""

    @property
    def device(self) -> torch.device: ...

    def begin(self, *, rows: int, length: int) -> None:
        """Forget all rows and make room for `rows` live ones of at most `length` tokens each."""
        ...

    def start(self, prompts: list[list[int]], copies: list[int]) -> Float[Tensor, "N H"]:
        """Read each prompt (token ids without padding) once and append copies[i] rows for it behind the live rows.

        Returns the last hidden state of each new row, in order: N = sum(copies).
        """
        ...

    def step(self, tokens: Int[Tensor, " N"]) -> Float[Tensor, "N H"]:
        """Append one token to each of the N live rows and return their last hidden states."""
        ...

    def keep(self, rows: list[int]) -> list[int]:
        """Keep these of the live rows. Returns, for each place that is left, the old row that lies there now."""
        ...

    def logits(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """Next-token logits, which no temperature has divided; in at least float32."""
        ...

    def load(self, actor: Actor) -> None:
        """Take over the actor's present weights, adapters merged. The live rows are forgotten."""
        ...

    def state(self) -> dict[str, int]:
        """What it keeps from one `begin` to the next beside the weights, if the last bits of a result depend on it."""
        ...

    def load_state(self, state: Mapping[str, int]) -> None:
        """Be as a decoder was that had this state. The live rows are forgotten."""
        ...

    def release(self) -> None:
        """Give up what `load` made, and the room of the rows: memory for somebody else. `load` comes before more."""
        ...
