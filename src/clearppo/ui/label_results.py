"""Which of the models or files that wrote the answers people prefer, how often, and how sure that is.

Plain numbers in, plain numbers out. Intervals are of 95 %.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import combinations
from statistics import fmean

from clearppo.data.labels import ALL_BAD, BETTER, TIE, Decision
from clearppo.data.templates import prompt_key

Z = 1.959963984540054  # the normal distribution's 97.5 % point
WIN, LOSS = "win", "loss"
HALF = {WIN: 1.0, TIE: 0.5, ALL_BAD: 0.5, LOSS: 0.0}


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Two writers, the one with the higher win rate first: decisions by what they say of the first, on `n_prompts`.

    `rate` is the win rate of the first: a tie and "all bad" are half a win, and each prompt counts once (the mean of
    its decisions). [low, high] is Wilson's interval with the prompts as the sample. All three are None without a
    decision. `n_uneven` decisions were left out because one of the two had more answers on the table, and so more
    chances.
    """

    sources: tuple[str, str]
    n_prompts: int
    wins: int
    ties: int
    all_bad: int
    losses: int
    n_uneven: int
    rate: float | None
    low: float | None
    high: float | None

    @property
    def is_settled(self) -> bool:
        """Whether the interval leaves out one half, so that the first is the one that people prefer."""
        return self.low is not None and self.low > 0.5


@dataclass
class _Tally:
    counts: Counter[str] = field(default_factory=Counter)
    by_prompt: dict[Hashable, list[float]] = field(default_factory=lambda: defaultdict(list))
    n_uneven: int = 0


def duels(decisions: Iterable[Decision]) -> tuple[Duel, ...]:
    """Of each two writers, by name, from standing decisions; of no use are those on answers of unknown writers.

    A decision for one of the first's answers is a win, for one of the second's a loss; for a third's it says nothing
    of these two. An answer that both gave is neither's.
    """
    tallies: dict[tuple[str, str], _Tally] = defaultdict(_Tally)
    for decision in decisions:
        for pair in combinations(sorted({name for names in decision.sources for name in names}), 2):
            _add(decision, pair, tallies[pair])
    return tuple(_duel(pair, tallies[pair]) for pair in sorted(tallies))


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share among n. With halves among wins and losses it is too wide at most."""
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def _add(decision: Decision, pair: tuple[str, str], tally: _Tally) -> None:
    sides = [
        [place for place, names in enumerate(decision.sources) if one in names and other not in names]
        for one, other in (pair, pair[::-1])
    ]
    first, second = sides
    if not first or not second:
        return
    if decision.verdict != BETTER:
        what = decision.verdict
    elif decision.choice in first:
        what = WIN
    elif decision.choice in second:
        what = LOSS
    else:
        return
    if len(first) != len(second):
        tally.n_uneven += 1
        return
    tally.counts[what] += 1
    tally.by_prompt[prompt_key(decision.prompt)].append(HALF[what])


def _duel(pair: tuple[str, str], tally: _Tally) -> Duel:
    n = len(tally.by_prompt)
    rate = fmean(fmean(said) for said in tally.by_prompt.values()) if n else None
    low, high = (None, None) if rate is None else wilson(rate, n)
    wins, losses = tally.counts[WIN], tally.counts[LOSS]
    if rate is not None and low is not None and high is not None and rate < 0.5:
        pair, rate, low, high = (pair[1], pair[0]), 1 - rate, 1 - high, 1 - low
        wins, losses = losses, wins
    return Duel(
        sources=pair,
        n_prompts=n,
        wins=wins,
        ties=tally.counts[TIE],
        all_bad=tally.counts[ALL_BAD],
        losses=losses,
        n_uneven=tally.n_uneven,
        rate=rate,
        low=low,
        high=high,
    )
