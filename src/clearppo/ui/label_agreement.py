"""Whether people who labelled the same items decided alike, and how much of that chance would have done.

Which answer of an item is called the first is nobody's opinion, so "the first" is no category with a frequency of its
own: of two people who decide for an answer by chance, one in k names the same of k answers. Ties and "all bad" are
categories. Plain numbers in, plain numbers out.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean, median

from clearppo.data.labels import ALL_BAD, BETTER, TIE, Decision


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two labellers: how many items both decided, on which share they decided the same, and Cohen's kappa (None: not
    defined, because chance alone would make them agree)."""

    labellers: tuple[str, str]
    n_items: int
    equal: float
    kappa: float | None


@dataclass(frozen=True, kw_only=True)
class Person:
    """One labeller's decisions: shares of ties, of "all bad", and of choices that fell on the answer shown first; the
    median time of a decision in seconds (None where there is nothing to count)."""

    labeller: str
    n_decisions: int
    ties: float
    all_bad: float
    first: float | None
    seconds: float | None


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """`n_items` were decided by at least two people. `equal` is the share of equal decisions of two people on an item;
    `alpha` is Krippendorff's. Both are None where nobody shares an item, alpha also where nothing could differ."""

    people: tuple[Person, ...]
    pairs: tuple[Pair, ...]
    n_items: int
    equal: float | None
    alpha: float | None


def measure(decisions: Iterable[Decision]) -> Agreement:
    """From standing decisions. People and pairs come by name."""
    by_item: dict[str, dict[str, Decision]] = defaultdict(dict)
    by_person: dict[str, list[Decision]] = defaultdict(list)
    for decision in decisions:
        by_item[decision.item][decision.labeller] = decision
        by_person[decision.labeller].append(decision)
    shared = [list(of_item.values()) for of_item in by_item.values() if len(of_item) > 1]
    both: dict[tuple[str, str], list[tuple[Decision, Decision]]] = defaultdict(list)
    for of_item in shared:
        for one, other in combinations(sorted(of_item, key=lambda decision: decision.labeller), 2):
            both[one.labeller, other.labeller].append((one, other))
    everything = [pair for pairs in both.values() for pair in pairs]
    return Agreement(
        people=tuple(_person(name, by_person[name]) for name in sorted(by_person)),
        pairs=tuple(
            Pair(labellers=names, n_items=len(both[names]), equal=_equal(both[names]), kappa=kappa(both[names]))
            for names in sorted(both)
        ),
        n_items=len(shared),
        equal=_equal(everything) if everything else None,
        alpha=alpha(shared),
    )


def kappa(pairs: Sequence[tuple[Decision, Decision]]) -> float | None:
    """Cohen's kappa (1960) of two people's decisions on the same items: (observed - chance) / (1 - chance).

    chance = sum over categories of the product of both people's shares, where deciding for an answer counts 1 / k of
    it, k the number of answers (its mean over the items). None if chance is 1.
    """
    ones, others = zip(*pairs, strict=True)
    chance = sum(_share(ones, verdict) * _share(others, verdict) for verdict in (TIE, ALL_BAD))
    chance += _share(ones, BETTER) * _share(others, BETTER) * fmean(1 / len(one.completions) for one in ones)
    return None if chance > 1 - 1e-12 else (_equal(pairs) - chance) / (1 - chance)


def alpha(shared: Sequence[Sequence[Decision]]) -> float | None:
    """Krippendorff's alpha for categories, of the decisions on items that at least two people decided.

    1 - observed disagreement / expected disagreement. Observed: over the ordered pairs of decisions on one item, each
    weighed by 1 / (m - 1) for m decisions, divided by all n decisions. Expected: of two of the n decisions, drawn
    without putting back; two for an answer are the same one once in k times. None if nothing could disagree.
    """
    every = [decision for of_item in shared for decision in of_item]
    n = len(every)
    if n < 2:
        return None
    observed = sum(
        2 * sum(not _alike(one, other) for one, other in combinations(of_item, 2)) / (len(of_item) - 1)
        for of_item in shared
    )
    counts = {verdict: sum(decision.verdict == verdict for decision in every) for verdict in (BETTER, TIE, ALL_BAD)}
    alike = {verdict: count * (count - 1) for verdict, count in counts.items()}
    same_answer = fmean(1 / len(decision.completions) for decision in every)
    expected = n * (n - 1) - alike[TIE] - alike[ALL_BAD] - alike[BETTER] * same_answer
    return None if expected < 1e-9 else 1 - observed / n / (expected / (n * (n - 1)))


def _person(name: str, decisions: Sequence[Decision]) -> Person:
    chosen = [decision for decision in decisions if decision.verdict == BETTER]
    timed = [decision.seconds for decision in decisions if decision.seconds > 0]
    return Person(
        labeller=name,
        n_decisions=len(decisions),
        ties=_share(decisions, TIE),
        all_bad=_share(decisions, ALL_BAD),
        first=fmean(decision.choice == decision.order[0] for decision in chosen) if chosen else None,
        seconds=median(timed) if timed else None,
    )


def _alike(one: Decision, other: Decision) -> bool:
    return (one.verdict, one.choice) == (other.verdict, other.choice)


def _equal(pairs: Sequence[tuple[Decision, Decision]]) -> float:
    return fmean(_alike(one, other) for one, other in pairs)


def _share(decisions: Sequence[Decision], verdict: str) -> float:
    return fmean(decision.verdict == verdict for decision in decisions)
