"""From labelled answers to rows of comparisons, and the numbers that sum them up. Plain Python, no tensors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from clearppo.train.listener import Table

DIGITS = 7  # of a float32: the rest is noise of the conversion
ROUNDING = 1e-9
QUANTILES = {
    "lowest score": 0.0,
    "10 % of the scores are below": 0.1,
    "half of the scores are below": 0.5,
    "90 % of the scores are below": 0.9,
    "highest score": 1.0,
}


def distinct(completions: Sequence[str], n_each: int) -> list[int]:
    """The rows to label, in order: of `n_each` adjacent answers to a prompt the first of each text.

    Blanks around a text make no other answer: many chat templates strip them, and a reward model would read one text
    twice. An empty answer is an answer.
    """
    rows: list[int] = []
    for start in range(0, len(completions), n_each):
        first: dict[str, int] = {}
        for row in range(start, start + n_each):
            first.setdefault(completions[row].strip(), row)
        rows += first.values()
    return rows


def tidy(score: float) -> float:
    """A float32 as people write it: 0.3, not 0.30000001192092896."""
    return float(f"{score:.{DIGITS}g}")


def ordered_pairs(scores: Sequence[float], min_gap: float | int) -> list[list[int]]:
    """Every [better, worse] whose scores differ by more than `min_gap`; a gap of just 0.2 is not more than 0.2."""
    return [
        [i, j]
        for i, better in enumerate(scores)
        for j, worse in enumerate(scores)
        if better - worse > min_gap + ROUNDING * max(abs(better), abs(worse))
    ]


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The distinct answers to one prompt with their scores (None: the labeller could not tell)."""

    prompt: Any
    columns: Mapping[str, Any]
    completions: tuple[str, ...]
    scores: tuple[float | None, ...]

    def row(self, min_gap: float | int) -> dict[str, Any]:
        """The row of comparisons: prompt, labelled completions, their scores and pairs, and the prompt's columns."""
        labelled = [(c, tidy(s)) for c, s in zip(self.completions, self.scores, strict=True) if s is not None]
        scores = [score for _, score in labelled]
        return {
            "prompt": self.prompt,
            "completions": [completion for completion, _ in labelled],
            "scores": scores,
            "pairs": ordered_pairs(scores, min_gap),
            **self.columns,
        }

    def unlabelled(self) -> dict[str, Any]:
        """The same row with all completions and no judgement."""
        return {"prompt": self.prompt, "completions": list(self.completions), **self.columns}


@dataclass(frozen=True, kw_only=True)
class PrefsSummary:
    """What came out of making comparisons.

    `prompts` were written, with `answers` and `pairs`; `tied_prompts` were left out because no two of their answers
    differ by more than the gap. `ties` counts pairs of answers that were labelled and are no pair. Of all answers
    `identical` repeated another one to their prompt, and `unlabelled` got no score.
    `mean_length` is in tokens over all answers; `quantiles` of the scores are at `QUANTILES`. Answers that wait for
    people have no pairs, and no scores: their mean and deviation are NaN.
    """

    path: Path
    prompts: int
    tied_prompts: int
    answers: int
    pairs: int
    ties: int
    identical: int
    unlabelled: int
    mean_length: float
    score_mean: float
    score_std: float
    quantiles: tuple[float, ...]

    def table(self) -> Table:
        """For people: what was made, and what was left out if anything was."""
        made = {"prompts": self.prompts, "answers": self.answers}
        if self.quantiles:
            made["pairs of a better and a worse one"] = self.pairs
        left_out = {
            "left out: pairs that are tied": self.ties,
            f"left out: prompts whose answers are all {'tied' if self.quantiles else 'alike'}": self.tied_prompts,
            "left out: answers that repeat another one": self.identical,
            "left out: answers without a label": self.unlabelled,
        }
        numbers = {"mean length of an answer (tokens)": self.mean_length}
        if self.quantiles:
            numbers |= {
                "mean score": self.score_mean,
                "standard deviation of the scores": self.score_std,
                **dict(zip(QUANTILES, self.quantiles, strict=True)),
            }
        rows = [(name, str(count)) for name, count in made.items()]
        rows += [(name, str(count)) for name, count in left_out.items() if count]
        rows += [(name, f"{number:.4g}") for name, number in numbers.items()]
        title = "comparisons" if self.quantiles else "answers to compare"
        return Table(title=title, columns=("", "number"), rows=tuple(rows))


@dataclass
class Tally:
    """Adds up batch by batch."""

    prompts: int = 0
    tied_prompts: int = 0
    answers: int = 0
    pairs: int = 0
    ties: int = 0
    identical: int = 0
    unlabelled: int = 0
    sampled: int = 0
    tokens: int = 0
    score_sum: float = 0.0
    scores: list[float] = field(default_factory=list)

    def add_sampled(self, lengths: Sequence[int], n_distinct: int) -> None:
        """All answers of a batch, of `lengths` tokens, `n_distinct` of which have a text of their own."""
        self.identical += len(lengths) - n_distinct
        self.sampled += len(lengths)
        self.tokens += sum(lengths)

    def add_row(self, row: Mapping[str, Any], n_distinct: int) -> None:
        """One prompt's row, written or not; `n_distinct` answers were to be labelled."""
        count = len(row["scores"])
        self.unlabelled += n_distinct - count
        self.scores += row["scores"]
        self.score_sum += sum(row["scores"])
        self.ties += math.comb(count, 2) - len(row["pairs"])
        if row["pairs"]:
            self.prompts += 1
            self.answers += count
            self.pairs += len(row["pairs"])
        else:
            self.tied_prompts += 1

    def add_unlabelled(self, n_distinct: int, *, written: bool) -> None:
        """One prompt's row of answers that wait for people."""
        if written:
            self.prompts += 1
            self.answers += n_distinct
        else:
            self.tied_prompts += 1

    def metrics(self) -> dict[str, float]:
        """The numbers so far, for whoever watches."""
        return {
            "prompts": float(self.prompts + self.tied_prompts),
            "pairs": float(self.pairs),
            "ties": float(self.ties),
            "scores/mean": self.score_sum / len(self.scores) if self.scores else math.nan,
            "completions/mean_length": self.tokens / self.sampled,
        }

    def summary(self, path: Path) -> PrefsSummary:
        """Where nothing was scored, there are no quantiles."""
        scored = bool(self.scores)
        return PrefsSummary(
            path=path,
            prompts=self.prompts,
            tied_prompts=self.tied_prompts,
            answers=self.answers,
            pairs=self.pairs,
            ties=self.ties,
            identical=self.identical,
            unlabelled=self.unlabelled,
            mean_length=self.tokens / self.sampled,
            score_mean=fmean(self.scores) if scored else math.nan,
            score_std=pstdev(self.scores) if scored else math.nan,
            quantiles=tuple(_quantile(sorted(self.scores), share) for share in QUANTILES.values()) if scored else (),
        )


def prefs_headline(metrics: Mapping[str, float]) -> str:
    """The numbers that one watches while comparisons are made."""
    return (
        f"{metrics['pairs']:.0f} pairs  {metrics['ties']:.0f} ties  score {metrics['scores/mean']:+.3f}  "
        f"length {metrics['completions/mean_length']:.0f}  {metrics['tokens_per_second']:.0f} tok/s"
    )


def answers_headline(metrics: Mapping[str, float]) -> str:
    """The same where people will do the comparing."""
    return (
        f"{metrics['prompts']:.0f} prompts  length {metrics['completions/mean_length']:.0f}  "
        f"{metrics['tokens_per_second']:.0f} tok/s"
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear between the nearest ranks."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
