"""A source of scores that one of several processes asks, with the whole batch, for all of them."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from clearppo.batch import Rollout
from clearppo.engines.base import Engine
from clearppo.feedback.scorer import Scorer, Scores


class SharedScorer:
    """A function, a server, a worker: whatever is asked once a batch. `source` is there on the first process only, and
    what it says, or raises, is told to all."""

    def __init__(self, engine: Engine, names: tuple[str, ...], source: Scorer | None) -> None:
        self.names = names
        self.source = source
        self._engine = engine

    def __call__(self, rollout: Rollout) -> Scores:
        told = self._engine.share(lambda: self._asked(rollout))

        def tensor(values: list[float]) -> Tensor:
            return torch.tensor(values, dtype=torch.float32, device=rollout.responses.device)

        return Scores(
            total=tensor(told["total"]),
            parts={name: tensor(part) for name, part in told["parts"].items()},
            missing=frozenset(told["missing"]),
        )

    def _asked(self, rollout: Rollout) -> dict[str, Any]:
        assert self.source is not None  # on the first process
        scores = self.source(rollout)
        parts = {name: part.tolist() for name, part in scores.parts.items()}
        return {"total": scores.total.tolist(), "parts": parts, "missing": sorted(scores.missing)}


def on_first(make: Callable[[], Sequence[Scorer]], engine: Engine) -> list[Scorer]:
    """What `make` gives; of several processes the first makes it and asks it for all. Raises as `make` does."""
    if engine.world == 1:
        return list(make())
    made = list[Scorer]()

    def names() -> list[list[str]]:
        made.extend(make())
        return [list(source.names) for source in made]

    told = engine.share(names)
    return [SharedScorer(engine, tuple(n), made[i] if made else None) for i, n in enumerate(told)]
