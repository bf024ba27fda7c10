"""The numbers of an evaluation in the loop, as they stand in metrics.jsonl: name, unit and formula of each.

Sums run over the held-out prompts i, each of which has one answer now and had one of the start model's.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clearppo.train.evaluation import Evaluation, mean_interval, wins
from clearppo.train.registry import Registry

SCORE = "score"
"""The measure that is optimised: the weighted sum of the run's sources, before scaling, clipping and penalties."""
WIN_RATE = "eval/win_rate"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The answers of now; and what those of the start model scored by each measure, nothing if nobody knows."""

    now: Evaluation
    start: Mapping[str, Sequence[float]]

    @property
    def measures(self) -> Mapping[str, Sequence[float]]:
        """Scores by source: the held-out ones, and the optimised ones if there are several."""
        return {**self.now.parts, **{name: scores for name, scores in self.now.scores.items() if name != SCORE}}


EVALUATION: Registry[Measured] = Registry()
metric = EVALUATION.metric


def measure(measured: Measured) -> dict[str, float]:
    """All registered metrics; of each source of scores the mean, and the win rate if it is held out."""
    row = EVALUATION.measure(measured)
    for name, scores in measured.measures.items():
        row |= {key: mean_of(scores) for key in [source_metric(name)] if given(scores)}
        if name in measured.now.scores and (rate := _win_rate(measured, name)) is not None:
            row[f"{WIN_RATE}/{name}"] = rate
    return row


def metric_names(measures: Sequence[str], parts: Sequence[str]) -> list[str]:
    """The names that `measure` can give, where `measures` are held out and `parts` are optimised together."""
    sources = [*(parts if len(parts) > 1 else ()), *measures]
    return [*EVALUATION, *map(source_metric, sources), *(f"{WIN_RATE}/{name}" for name in measures)]


def source_metric(name: str) -> str:
    """The name of the mean score of a source."""
    return f"eval/rewards/{name}"


def given(scores: Sequence[float]) -> list[float]:
    """The scores without those that a source did not give (NaN)."""
    return [score for score in scores if not math.isnan(score)]


def mean_of(values: Sequence[float]) -> float:
    """The mean of what was given."""
    return mean_interval(given(values))[0]


def won(measured: Measured, name: str) -> list[float]:
    """For each prompt 1 if the answer scores higher than the start model's, 0 if lower, 1/2 if equal; NaN if a score
    is missing. Empty if the start model's scores are not known."""
    now, start = measured.now.scores[name], measured.start.get(name)
    if start is None:
        return []
    return [math.nan if math.isnan(a) or math.isnan(b) else wins([a], [b])[0] for a, b in zip(now, start, strict=True)]


def _win_rate(measured: Measured, name: str) -> float | None:
    known = given(won(measured, name))
    return sum(known) / len(known) if known else None


@metric("eval/score", "score")
def score(m: Measured) -> float | None:
    """mean_i score_i: the weighted sum of the optimised sources, before scaling, clipping and penalties."""
    return mean_of(m.now.scores[SCORE]) if given(m.now.scores[SCORE]) else None


@metric(WIN_RATE, "share of prompts")
def win_rate(m: Measured) -> float | None:
    """Share of prompts whose answer scores higher than the start model's; equal scores count one half."""
    return _win_rate(m, SCORE)


@metric("eval/kl", "nats per response")
def kl(m: Measured) -> float:
    """mean_i of the KL from the reference: sum_t log p - log p_ref of sampled answers; of greedy ones sum_t of the
    exact KL(policy || reference) of the next token, at the temperature of training."""
    return mean_of(m.now.kl)


@metric("eval/length", "tokens")
def length(m: Measured) -> float:
    """mean_i of the number of tokens of an answer, the ending token included."""
    return mean_of(m.now.lengths)


@metric("eval/clipped_ratio", "share of answers")
def clipped_ratio(m: Measured) -> float:
    """Share of answers that were cut at --response_length instead of ending."""
    return m.now.finish_reasons.count("length") / len(m.now.finish_reasons)


@metric("eval/repetition", "share of 4-grams")
def repetition(m: Measured) -> float:
    """Share of 4-grams of tokens that occurred before in the same answer, over all answers."""
    return m.now.repetition
