"""A decoder for tests of the sampler: as plain as can be, and watchful."""

from collections.abc import Mapping

import torch
from torch import Tensor

from clearppo.models.actor import Actor


class WholeDecoder:
    """The plainest decoder: at every step each row is read whole and alone. It checks how it is used."""

    exact = True
    why = "plain"

    def __init__(self, actor: Actor, *, joins: bool) -> None:
        self.actor = actor
        self.joins = joins
        self.rows: list[list[int]] = []
        self.room = (0, 0)
        self.started: list[tuple[int, list[list[int]], list[int]]] = []  # rows live before, prompts, copies
        self.live: list[int] = []  # how many rows went on at each step

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def begin(self, *, rows: int, length: int) -> None:
        self.rows, self.room = [], (rows, length)

    def start(self, prompts: list[list[int]], copies: list[int]) -> Tensor:
        assert self.joins or not self.rows
        self.started.append((len(self.rows), prompts, copies))
        new = [list(prompt) for prompt, count in zip(prompts, copies, strict=True) for _ in range(count)]
        self.rows += new
        assert len(self.rows) <= self.room[0]
        return self._last(new)

    def step(self, tokens: Tensor) -> Tensor:
        self.live.append(len(self.rows))
        self.rows = [[*row, token] for row, token in zip(self.rows, tokens.tolist(), strict=True)]
        assert max(map(len, self.rows)) < self.room[1]
        return self._last(self.rows)

    def keep(self, rows: list[int]) -> list[int]:
        self.rows = [self.rows[row] for row in reversed(rows)]
        return list(reversed(rows))

    def logits(self, hidden: Tensor) -> Tensor:
        return self.actor.causal_lm.get_output_embeddings()(hidden)

    def load(self, actor: Actor) -> None:
        self.actor = actor

    def release(self) -> None:
        self.rows = []

    def state(self) -> dict[str, int]:
        return {}

    def load_state(self, state: Mapping[str, int]) -> None:
        self.rows = []

    def _last(self, rows: list[list[int]]) -> Tensor:
        one = self.actor.backbone
        return torch.stack([one(torch.tensor([row]), use_cache=False).last_hidden_state[0, -1] for row in rows])
