"""Is my reward model good enough for PPO? What its scores say of comparisons that it has not learned from."""

import json
import math
from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Literal

from clearppo.data.checks import counted
from clearppo.data.comparisons import ComparisonSet
from clearppo.data.templates import prompt_key
from clearppo.errors import DataError, TrainingError
from clearppo.train.agreement import (
    Agreement,
    CalibrationBin,
    agreement,
    calibration,
    histogram,
    pearson,
    quantile,
    spearman,
)
from clearppo.train.reward_verdict import Evidence, Verdict, verdict

SCHEMA = "clearppo.reward_report"
VERSION = 1
EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the calibration's bins
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)  # of the scores' quantiles
N_MARGINS = 4
N_HISTOGRAM = 20


@dataclass(frozen=True, kw_only=True)
class ScoredComparison:
    """A held-out comparison with what the model says of it: for each answer its score and its length in tokens.

    `pairs` are (better, worse), numbers of answers; `labels`, higher is better, are those of whoever compared, or None.
    Comparisons of an equal `prompt` are taken to depend on each other; None: this one depends on no other.
    """

    scores: tuple[float, ...]
    lengths: tuple[int, ...]
    pairs: tuple[tuple[int, int], ...]
    labels: tuple[float, ...] | None = None
    prompt: Hashable = None


@dataclass(frozen=True, kw_only=True)
class MarginBin:
    """The pairs whose gap lies in [low, high], and how many of them are right."""

    low: float
    high: float
    agreement: Agreement


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """How far scores follow the answers' lengths in tokens; correlations over answers, shares over pairs.

    None: lengths or scores do not vary. `longer_wins` is the share of pairs whose better answer is the longer one (what
    always choosing the longer would be right in), `prefers_longer` the share in which the model prefers it, among the
    `n_pairs` pairs of unequal length; `right_when_longer_wins` and `right_when_shorter_wins` are the model's accuracy
    on either kind.
    """

    pearson: float | None
    spearman: float | None
    n_pairs: int
    longer_wins: float | None
    prefers_longer: float | None
    right_when_longer_wins: float | None
    right_when_shorter_wins: float | None


@dataclass(frozen=True, kw_only=True)
class ScoreDistribution:
    """All answers' scores; std is the population's; the histogram's bins are of equal width."""

    n: int
    mean: float
    std: float
    quantiles: dict[str, float]
    histogram_edges: tuple[float, ...]
    histogram_counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TrainGap:
    """Accuracy on comparisons that were learned from, minus held-out accuracy; [low, high] of the difference."""

    train: Agreement
    gap: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class RewardReport:
    """What is known of a reward model from held-out comparisons. `to_json` is kept as reward_report.json.

    Schema "clearppo.reward_report", version 1: these fields under their names, nested as the classes of this file and
    of train/agreement.py are; shares and probabilities are from 0 to 1, lengths in tokens, scores in the model's own
    units; null is "not defined here". A later version may add fields and will say so by its number.

      accuracy          pairs, strictly greater score (a tie is wrong), with its 95 % intervals: see Agreement
      n_ties            pairs whose two scores are equal
      log_loss          mean of -log sigmoid(difference in logits), nats a pair; log 2 = 0.693 knows nothing
      margin_kind       "labels": by_margin and near_ties are by the gap between the labels of a pair's two answers;
                        "scores": there are no labels, so by the gap between the model's own scores
      by_margin         quarters of the pairs by that gap, narrowest first
      near_ties         the narrowest quarter: where people disagree too, agreement near 0.5 is no fault
      clear             pairs whose gap is above `clear_gap`; null if there is none
      clear_gap         in units of the labels (or scores); by default the pairs' median gap
      calibration       predicted and observed preference in bins of the predicted one, from 0.5 to 1
      calibration_error expected calibration error, the pairs' mean of |predicted - observed|
      overconfidence    mean of predicted - observed: above 0 the model is surer than it is right
      logit_scale       score units a logit: differences were divided by it before the sigmoid
      length            how far scores follow lengths: see LengthBias
      scores            all answers' scores: see ScoreDistribution
      train             accuracy on pairs that were learned from: see TrainGap; null if they were not given
      verdict           level ("good", "usable", "not good enough", "cannot tell"), meaning, reasons: in words
    """

    accuracy: Agreement
    n_ties: int
    log_loss: float
    margin_kind: Literal["labels", "scores"]
    by_margin: tuple[MarginBin, ...]
    near_ties: MarginBin
    clear: Agreement | None
    clear_gap: float
    calibration: tuple[CalibrationBin, ...]
    calibration_error: float
    overconfidence: float
    logit_scale: float
    length: LengthBias
    scores: ScoreDistribution
    train: TrainGap | None
    verdict: Verdict

    def to_json(self) -> str:
        """The report as JSON text; see the class for its schema."""
        return json.dumps({"schema": SCHEMA, "version": VERSION, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) for a table, the most important first; the verdict is not among them."""
        quarters = ", ".join(f"{bin.agreement.value:.0%}" for bin in self.by_margin)
        of = "labels" if self.margin_kind == "labels" else "its own scores"
        s, q = self.scores, self.scores.quantiles
        rows = [
            ("accuracy on held-out pairs", _spelled(self.accuracy)),
            (f"accuracy by the gap of {of}, narrow to wide", quarters),
            (f"on near-ties (gap up to {self.near_ties.high:.3g})", _spelled(self.near_ties.agreement)),
        ]
        if self.clear is not None:
            rows.append((f"on clear pairs (gap above {self.clear_gap:.3g})", _spelled(self.clear)))
        said = ", ".join(f"{bin.predicted:.0%} → {bin.observed:.0%}" for bin in self.calibration)
        rows += [
            ("predicted → observed preference", f"{said}; off by {self.calibration_error:.1%} on average"),
            ("correlation of score and length", _correlations(self.length)),
        ]
        if self.length.longer_wins is not None:
            rows.append(("always choosing the longer answer", f"right in {self.length.longer_wins:.1%}"))
        rows.append(("scores", f"{s.mean:.3g} ± {s.std:.3g}, 90 % of them from {q['0.05']:.3g} to {q['0.95']:.3g}"))
        if self.train is not None:
            rows.append(("accuracy on pairs learned from", _spelled(self.train.train)))
        return rows

    def lines(self) -> list[str]:
        """The whole report as plain text, the verdict first."""
        width = max(len(name) for name, _ in self.rows())
        table = [f"{name:<{width}}  {value}" for name, value in self.rows()]
        return [self.verdict.meaning, *(f"- {reason}" for reason in self.verdict.reasons), "", *table]


def reward_report(
    held_out: Sequence[ScoredComparison],
    *,
    train: Sequence[ScoredComparison] | None = None,
    logit_scale: float = 1.0,
    clear_gap: float | None = None,
) -> RewardReport:
    """The report on a reward model from comparisons that it has not learned from, one prompt each.

    `train` are some that it has learned from. `logit_scale` is the gain of a score normalisation that came after
    training: the loss taught the model that sigmoid(difference / logit_scale) is the probability of a preference.
    `clear_gap` is how far labels must be apart for a pair to be called clear (default: the median gap).

    Raises DataError if there is no pair; TrainingError if a score is not finite.
    """
    if not any(comparison.pairs for comparison in held_out):
        raise DataError("there is no held-out pair to judge the reward model by. Use a larger --eval_fraction.")
    for comparison in [*held_out, *(train or [])]:
        if not all(map(math.isfinite, comparison.scores)):
            raise TrainingError("the reward model gives scores that are not finite. Use a smaller --learning_rate.")
    accuracy = _accuracy(held_out)
    differences = [d / logit_scale for d in _differences(held_out)]
    bins, error = calibration(differences, EDGES)
    length, scores = _length_bias(held_out), _distribution(held_out)
    by_label = all(comparison.labels is not None for comparison in held_out)
    gaps = _gaps(held_out, by_label)
    by_margin = _by_margin(held_out, gaps)
    clear_gap = quantile([gap for group in gaps for gap in group], 0.5) if clear_gap is None else clear_gap
    clear = _within(held_out, gaps, clear_gap, math.inf, above=True)
    train_gap = _train_gap(train, accuracy)
    overconfidence = math.fsum(b.n_pairs * (b.predicted - b.observed) for b in bins) / len(differences)
    evidence = Evidence(
        accuracy=accuracy, score_std=scores.std, train_gap=None if train_gap is None else train_gap.gap,
        train_gap_low=0.0 if train_gap is None else train_gap.low,
        calibration_error=error, overconfidence=overconfidence, longer_wins=length.longer_wins,
        prefers_longer=length.prefers_longer, clear=clear if by_label else None,
    )  # fmt: skip
    return RewardReport(
        accuracy=accuracy,
        n_ties=sum(d == 0 for d in differences),
        log_loss=math.fsum(_softplus(-d) for d in differences) / len(differences),
        margin_kind="labels" if by_label else "scores",
        by_margin=by_margin,
        near_ties=by_margin[0],
        clear=clear,
        clear_gap=clear_gap,
        calibration=bins,
        calibration_error=error,
        overconfidence=overconfidence,
        logit_scale=logit_scale,
        length=length,
        scores=scores,
        train=train_gap,
        verdict=verdict(evidence),
    )


def _differences(comparisons: Sequence[ScoredComparison]) -> list[float]:
    return [c.scores[better] - c.scores[worse] for c in comparisons for better, worse in c.pairs]


def _accuracy(comparisons: Sequence[ScoredComparison]) -> Agreement:
    right = [[c.scores[better] > c.scores[worse] for better, worse in c.pairs] for c in comparisons]
    return agreement(_by_prompt(comparisons, right))


def _by_prompt(comparisons: Sequence[ScoredComparison], of_each: Sequence[list[bool]]) -> list[list[bool]]:
    """One list a prompt instead of one a comparison."""
    groups: dict[Hashable, list[bool]] = {}
    for number, (comparison, values) in enumerate(zip(comparisons, of_each, strict=True)):
        key = ("alone", number) if comparison.prompt is None else ("prompt", comparison.prompt)
        groups.setdefault(key, []).extend(values)
    return list(groups.values())


def _gaps(comparisons: Sequence[ScoredComparison], by_label: bool) -> list[list[float]]:
    """How far apart the answers of each pair are, by labels or by scores; a list for each comparison."""
    values = [c.labels if by_label and c.labels is not None else c.scores for c in comparisons]
    return [[abs(v[a] - v[b]) for a, b in c.pairs] for c, v in zip(comparisons, values, strict=True)]


def _within(
    comparisons: Sequence[ScoredComparison], gaps: list[list[float]], low: float, high: float, *, above: bool = False
) -> Agreement | None:
    """The agreement on pairs with a gap in [low, high], or in (low, high] if `above`; None if there is none."""
    right = [
        [
            c.scores[better] > c.scores[worse]
            for (better, worse), gap in zip(c.pairs, of_pairs, strict=True)
            if (low < gap if above else low <= gap) and gap <= high
        ]
        for c, of_pairs in zip(comparisons, gaps, strict=True)
    ]
    return agreement(_by_prompt(comparisons, right)) if any(right) else None


def _by_margin(comparisons: Sequence[ScoredComparison], gaps: list[list[float]]) -> tuple[MarginBin, ...]:
    """Quarters by gap; fewer where many gaps are equal."""
    every = [gap for group in gaps for gap in group]
    edges = sorted({quantile(every, i / N_MARGINS) for i in range(N_MARGINS + 1)})
    spans = list(pairwise(edges)) or [(edges[0], edges[0])]
    bins: list[MarginBin] = []
    for number, (low, high) in enumerate(spans):
        found = _within(comparisons, gaps, low, high, above=number > 0)
        if found is not None:
            bins.append(MarginBin(low=low, high=high, agreement=found))
    return tuple(bins)


def _length_bias(comparisons: Sequence[ScoredComparison]) -> LengthBias:
    scores = [score for c in comparisons for score in c.scores]
    lengths = [float(length) for c in comparisons for length in c.lengths]
    # (how much longer the better answer is, how much higher its score)
    pairs = [(c.lengths[a] - c.lengths[b], c.scores[a] - c.scores[b]) for c in comparisons for a, b in c.pairs]
    unequal = [(longer, higher) for longer, higher in pairs if longer != 0]
    longer_better = [higher > 0 for longer, higher in unequal if longer > 0]
    shorter_better = [higher > 0 for longer, higher in unequal if longer < 0]
    return LengthBias(
        pearson=pearson(scores, lengths),
        spearman=spearman(scores, lengths),
        n_pairs=len(unequal),
        longer_wins=_share([longer > 0 for longer, _ in unequal]),
        prefers_longer=_share([longer * higher > 0 for longer, higher in unequal]),
        right_when_longer_wins=_share(longer_better),
        right_when_shorter_wins=_share(shorter_better),
    )


def _share(cases: Sequence[bool]) -> float | None:
    return sum(cases) / len(cases) if cases else None


def _distribution(comparisons: Sequence[ScoredComparison]) -> ScoreDistribution:
    scores = [score for c in comparisons for score in c.scores]
    mean = math.fsum(scores) / len(scores)
    edges, counts = histogram(scores, N_HISTOGRAM)
    return ScoreDistribution(
        n=len(scores),
        mean=mean,
        std=math.sqrt(math.fsum((score - mean) ** 2 for score in scores) / len(scores)),
        quantiles={f"{share:g}": quantile(scores, share) for share in SHARES},
        histogram_edges=edges,
        histogram_counts=counts,
    )


def _train_gap(train: Sequence[ScoredComparison] | None, held_out: Agreement) -> TrainGap | None:
    if train is None or not any(comparison.pairs for comparison in train):
        return None
    known = _accuracy(train)
    gap = known.value - held_out.value
    # Two independent shares: the squares of the distances to their intervals' ends add up (Newcombe 1998).
    low = gap - math.hypot(known.value - known.low, held_out.high - held_out.value)
    high = gap + math.hypot(known.high - known.value, held_out.value - held_out.low)
    return TrainGap(train=known, gap=gap, low=low, high=high)


def _softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def _spelled(a: Agreement) -> str:
    return f"{a.value:.1%} ({a.low:.1%} to {a.high:.1%}, {counted(a.n_pairs, 'pair')})"


def _correlations(length: LengthBias) -> str:
    if length.pearson is None or length.spearman is None:
        return "not defined: lengths or scores do not vary"
    return f"{length.pearson:+.2f} (Pearson), {length.spearman:+.2f} (by ranks)"


def scored(comparisons: ComparisonSet, scores: Sequence[float]) -> list[ScoredComparison]:
    """What the report reads: comparisons with one score an answer, in the order of their answers."""
    result: list[ScoredComparison] = []
    start = 0
    for comparison, lengths in zip(comparisons.comparisons, comparisons.answer_tokens, strict=True):
        end = start + len(comparison.answers)
        result.append(
            ScoredComparison(
                scores=tuple(map(float, scores[start:end])),
                lengths=tuple(lengths),
                pairs=comparison.pairs,
                labels=comparison.labels,
                prompt=prompt_key(comparison.prompt) or None,
            )
        )
        start = end
    return result
