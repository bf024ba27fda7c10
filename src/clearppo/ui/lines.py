"""A recorded token, and what a line about it is made of: symbols, numbers, a value, and what the record says."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from clearppo.ui.equation_words import NAMES, NOTES, Words

MAX_LOG_RATIO = 20.0
"""The losses cut log-ratios there."""
ROUNDING = 2e-5
"""What float32 may lose, relative to the sum of the absolute terms."""


@dataclass(frozen=True, kw_only=True)
class Equation:
    """One line: `number` as in the article, or nothing. `value` is computed here, `recorded` stands in the record, and
    `agrees` says whether the two are the same but for rounding (None: there is nothing to compare)."""

    number: str
    name: Words
    symbols: str
    numbers: str
    value: float | None
    recorded: float | None = None
    agrees: bool | None = None
    note: Words | None = None
    epoch: int | None = None


@dataclass(frozen=True, kw_only=True)
class Earned:
    """A token's advantage and what it is made of; the whole of it is `plain`, after whitening `final`.

    `later` is what the tokens behind it count, `expected` what was taken off, `following` the critic's next value where
    lambda is below 1. None: there is no such thing.
    """

    process: float
    score: float
    reward: float
    later: float | None = None
    expected: float | None = None
    following: float | None = None
    total: float | None = None
    plain: float | None = None
    final: float | None = None


class Token:
    """Token `index` of a recorded answer; `group` are the rows that its advantage was compared with, itself too."""

    def __init__(
        self, meta: Mapping[str, Any], answer: Mapping[str, Any], index: int, group: Sequence[Mapping[str, Any]]
    ) -> None:
        self.meta = meta
        self.answer = answer
        self.index = index
        self.group = group
        self.last = index == answer["length"] - 1

    def at(self, column: str) -> float | None:
        """The token's value in a column, if it has one."""
        values = self.answer[column]
        return None if values is None else values[self.index]

    def whole(self, column: str) -> list[float]:
        """A column from the first token to the last, 0 where there is none."""
        values = self.answer[column]
        return [0.0 if value is None else value for value in values or [None] * self.answer["length"]]

    @property
    def ratios(self) -> list[float | None]:
        """The token's ratio in each epoch; None for one that did not read it."""
        return [epoch[self.index] if epoch else None for epoch in self.answer["ratios"] or []]

    @property
    def scored(self) -> bool:
        """Whether the answer has a score; without one it earns nothing."""
        return self.answer["score"] is not None

    @cached_property
    def lam(self) -> tuple[float, float]:
        """The lambdas of the advantage and of the return."""
        lam, critic = self.meta["lam"], self.meta["critic_lam"]
        return lam, lam if critic is None else critic

    @property
    def returns(self) -> list[float]:
        """(3) of every token: its reward, and gamma times the next one's."""
        return discounted(self.whole("rewards"), self.meta["gamma"])

    @property
    def deltas(self) -> list[float]:
        """reward + gamma * next value - value, of every token; behind the last one the value is 0."""
        values = self.whole("values")
        following = [*values[1:], 0.0]
        rows = zip(self.whole("rewards"), values, following, strict=True)
        return [reward + self.meta["gamma"] * after - now for reward, now, after in rows]


def bounds(objective: Mapping[str, Any]) -> tuple[float, float]:
    """Between which ratios a token pushes; without a clip between all."""
    clip, high = objective["clip"], objective["clip_high"]
    return (0.0, math.inf) if clip is None else (1 - clip, 1 + (clip if high is None else high))


def beyond(ratio: float | None, advantage: float | None, low: float, high: float) -> bool:
    """Whether a token's ratio has left the range in the direction into which its advantage pushes."""
    if ratio is None or not advantage:
        return False
    # In float32 a ratio that was cut to the bound may lie a last bit beyond it.
    return ratio > high * (1 + 1e-7) if advantage > 0 else ratio < low * (1 - 1e-7)


def discounted(values: Sequence[float], decay: float) -> list[float]:
    """y[j] = x[j] + decay * y[j + 1], from the end."""
    running, sums = 0.0, list[float]()
    for value in reversed(values):
        running = value + decay * running
        sums.append(running)
    return sums[::-1]


def whitened(value: float, white: Mapping[str, float], recorded: float | None, what: str) -> Equation:
    """The line for whitening: (value + shift) * scale."""
    shift, scale = white["shift"], white["scale"]
    return compared(
        recorded, (value * scale, shift * scale), number="", name=NAMES[f"{what}_whitened"],
        value=(value + shift) * scale, symbols=f"whitened = ({what} + shift) * scale",
        numbers=f"({plain(value)} + {bracketed(shift)}) * {plain(scale)}", note=NOTES[f"whiten_{what}"],
    )  # fmt: skip


def compared(
    recorded: float | None, terms: Sequence[float], *, value: float, note: Words | None = None, **rest: Any
) -> Equation:
    """A line whose value is held against the recorded one; `terms` are what it was added up from."""
    agrees = None
    if recorded is not None:
        agrees = abs(value - recorded) <= ROUNDING * (sum(map(abs, terms)) + abs(value)) + 1e-9
    return Equation(value=value, recorded=recorded, agrees=agrees, note=note, **rest)


def times(name: str, factor: float) -> tuple[str, str]:
    """A factor in front, in symbols and in numbers; nothing where it is 1."""
    return ("", "") if factor == 1 else (f"{name} * ", f"{plain(factor)} * ")


def plain(x: float | None) -> str:
    """A number for people."""
    return "?" if x is None else f"{x:.5g}"


def bracketed(x: float | None) -> str:
    """The same behind an operator."""
    return f"({plain(x)})" if x is not None and plain(x).startswith("-") else plain(x)
