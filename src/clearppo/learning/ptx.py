"""PPO-ptx: language modelling on other text, mixed into every step of PPO so that the policy forgets less of it.

    objective + coef * E over texts [log p(token | the tokens before it)]      InstructGPT, arXiv 2203.02155, eq. (2)

The paper writes the log-probability of a whole text; open implementations (DeepSpeed-Chat) take the mean over tokens,
and so does this one, so that coef 27.8 means what it means there. The tokens are those of all texts of a mini-batch
together, where DeepSpeed-Chat takes one mean a micro-batch: here the micro-batch size changes nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol, runtime_checkable

import torch

from clearppo.batch import Sequences, Stats
from clearppo.engines.base import Engine
from clearppo.learning.sft import accumulate
from clearppo.models.actor import Actor

Reduction = Literal["sum", "mean"]


@runtime_checkable
class Texts(Protocol):
    """A set of tokenised texts (data's SequenceSet)."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], pad_id: int) -> Sequences:
        """These texts, in this order, right-padded."""
        ...


class TextStream:
    """Texts without end: each of them once in every pass over the set, each pass in a seeded order of its own."""

    def __init__(self, texts: Texts, *, pad_id: int, seed: int, device: torch.device) -> None:
        self.texts = texts
        self.pad_id = pad_id
        self.device = device
        self.seed = seed
        self.drawn = 0
        self._order = self._rows()

    def draw(self, n: int) -> Sequences:
        """The next `n` texts; more than there are is legal, some then come twice."""
        self.drawn += n
        return self.texts.batch(list(islice(self._order, n)), self.pad_id).to(self.device)

    def state(self) -> dict[str, int]:
        """How many texts were drawn: with the seed and the texts that is all its state."""
        return {"drawn": self.drawn}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on behind as many texts as a state says. None of them is read."""
        self.drawn = state["drawn"]
        self._order = islice(self._rows(), self.drawn, None)

    def _rows(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        while True:
            yield from torch.randperm(len(self.texts), generator=generator).tolist()


@dataclass(frozen=True, kw_only=True)
class Ptx:
    """Where the texts come from, how many a PPO answer, and how much they weigh.

    `reduction` "sum" adds the gradients of both losses (InstructGPT); "mean" takes half of that sum, as the gradient
    accumulation of DeepSpeed-Chat does (golden G39): (g_ppo + coef * g_text) / 2. The critic's loss is never halved.
    """

    stream: TextStream
    coef: float
    batch_ratio: float = 1.0
    reduction: Reduction = "sum"

    @property
    def share(self) -> float:
        """What the policy's loss on answers and that on texts are multiplied with."""
        return 0.5 if self.reduction == "mean" else 1.0

    def n_texts(self, n_answers: int) -> int:
        """Texts beside a mini-batch of so many answers, one at least."""
        return max(1, round(self.batch_ratio * n_answers))


def accumulate_texts(
    actor: Actor,
    engine: Engine,
    ptx: Ptx,
    *,
    n_answers: int,
    micro_batch_size: int | None,
    micro_batch_tokens: int | None = None,
) -> Stats:
    """Add the gradients of the texts beside one mini-batch of answers. Stats: nats and tokens of `loss/ptx_avg`."""
    texts = ptx.stream.draw(ptx.n_texts(n_answers))
    seen = accumulate(
        actor,
        texts,
        engine,
        micro_batch_size=micro_batch_size,
        micro_batch_tokens=micro_batch_tokens,
        weight=ptx.share * ptx.coef,
    )
    return Stats(sums={"loss/ptx_avg": seen.sums["loss"]}, counts={"loss/ptx_avg": seen.counts["loss"]})
