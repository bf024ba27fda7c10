"""What rules look at: the rows of metrics.jsonl so far, and a few facts about the run."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

START = 3
"""A run's own start is the median of so many first iterations."""
_SEARCHED = 20
"""The start is looked for in so many first iterations: numbers that come later have none."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What rules know of a run beside its numbers.

    In the first `warmup` iterations the policy does not learn. `endings`: an answer can end before it is cut.
    `kl_target` is what an adaptive coefficient steers the KL to. Evaluations go over `held_out` prompts.
    """

    batch_size: int
    response_length: int
    warmup: int = 0
    endings: bool = True
    kl_target: float | None = None
    held_out: int = 0


@dataclass(frozen=True)
class History:
    """The rows of the iterations so far, the newest last; an evaluation's numbers are in the row of its iteration.

    What is not finite counts as not there.
    """

    rows: Sequence[Mapping[str, float]]
    facts: Facts

    def now(self, name: str) -> float | None:
        """The number of the newest iteration."""
        return finite(self.rows[-1].get(name))

    def last(self, name: str, n: int, *, skip: int = 0, after: int = 0) -> list[float]:
        """The numbers of the last `n` iterations, in their order, but for the newest `skip` and the first `after`."""
        end = len(self.rows) - skip
        return _known(row.get(name) for row in self.rows[max(end - n, after, 0) : max(end, 0)])

    def first(self, name: str) -> float | None:
        """The first iteration's number, which is the start model's: it answers before anything is learned."""
        return finite(self.rows[0].get(name))

    def start(self, name: str, *, after: int = 0) -> float | None:
        """The run's own start: the median of its first numbers, those of the first `after` iterations left out."""
        known = _known(row.get(name) for row in self.rows[after : after + _SEARCHED])
        return median(known[:START]) if len(known) >= START else None

    def sources(self, suffix: str) -> list[str]:
        """The sources of scores that the newest iteration has numbers of, by their names."""
        begin = "rewards/"
        return [
            name.removeprefix(begin).removesuffix(suffix)
            for name in self.rows[-1]
            if name.startswith(begin) and name.endswith(suffix) and len(name) > len(begin) + len(suffix)
        ]


def finite(value: float | None) -> float | None:
    """The number, or None for what is none."""
    return value if value is not None and math.isfinite(value) else None


def spread(values: Sequence[float]) -> float:
    """A robust standard deviation of the steps from each value to the next: 1.4826 x their median size."""
    steps = [abs(b - a) for a, b in pairwise(values)]
    return 1.4826 * median(steps) if steps else 0.0


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in map(finite, values) if value is not None]
