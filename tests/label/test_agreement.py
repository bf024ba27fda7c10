"""Agreement: against the textbook where answers have no part in it, by hand where they have, and by chance itself."""

import random
from collections.abc import Sequence
from itertools import combinations, product

import pytest

from clearppo.data.labels import Decision
from clearppo.ui.label_agreement import alpha, kappa, measure
from tests.label.conftest import decision

T, B = "tie", "all bad"


def said(item: int, labeller: str, what: str | int, n_answers: int = 2, **more: float) -> Decision:
    verdict, choice = (what, None) if isinstance(what, str) else ("better", what)
    answers = tuple(f"a{n}" for n in range(n_answers))
    return decision(str(item), labeller, verdict, choice, completions=answers, order=tuple(range(n_answers)), **more)


def textbook_kappa(ones: Sequence[object], others: Sequence[object]) -> float:
    n = len(ones)
    observed = sum(a == b for a, b in zip(ones, others, strict=True)) / n
    chance = sum(ones.count(c) / n * (others.count(c) / n) for c in set(ones) | set(others))
    return (observed - chance) / (1 - chance)


def textbook_alpha(units: Sequence[Sequence[object]]) -> float:
    """By the coincidence matrix, as Krippendorff has it."""
    coincidences: dict[tuple[object, object], float] = {}
    for unit in units:
        for i, j in product(range(len(unit)), repeat=2):
            if i != j:
                key = unit[i], unit[j]
                coincidences[key] = coincidences.get(key, 0.0) + 1 / (len(unit) - 1)
    n = sum(coincidences.values())
    totals: dict[object, float] = {}
    for (one, _), count in coincidences.items():
        totals[one] = totals.get(one, 0.0) + count
    observed = sum(count for (one, other), count in coincidences.items() if one != other)
    expected = sum(totals[a] * totals[b] for a in totals for b in totals if a != b) / (n - 1)
    return 1 - observed / expected


def test_cohens_example() -> None:
    """Two categories: 20 of 50 both "tie", 15 both "all bad", 5 and 10 apart: kappa 0.4."""
    table = [(T, T)] * 20 + [(B, B)] * 15 + [(T, B)] * 5 + [(B, T)] * 10
    pairs = [(said(i, "ann", a), said(i, "bob", b)) for i, (a, b) in enumerate(table)]
    assert kappa(pairs) == pytest.approx(0.4)
    assert kappa(pairs) == pytest.approx(textbook_kappa([a for a, _ in table], [b for _, b in table]))


def test_alpha_of_categories_is_krippendorffs() -> None:
    random.seed(3)
    for _ in range(20):
        units = [[random.choice([T, T, B]) for _ in range(random.randint(2, 4))] for _ in range(8)]
        if len({value for unit in units for value in unit}) < 2:
            continue
        shared = [[said(i, f"l{n}", value) for n, value in enumerate(unit)] for i, unit in enumerate(units)]
        assert alpha(shared) == pytest.approx(textbook_alpha(units))


def test_the_name_of_an_answer_means_nothing() -> None:
    """Files whose better answer always comes first: two people who agree on all but one of ten agree well, though each
    nearly always says "the first". The chance of 1 in 2 stays."""
    pairs = [(said(i, "ann", 0), said(i, "bob", int(i == 0))) for i in range(10)]
    assert kappa(pairs) == pytest.approx((0.9 - 0.5) / (1 - 0.5))
    assert alpha(pairs) == pytest.approx(1 - 0.1 / (1 - 0.5))
    swapped = [(said(i, "ann", i % 2), said(i, "bob", (i + (i == 0)) % 2)) for i in range(10)]
    assert kappa(swapped) == kappa(pairs)
    assert alpha(swapped) == alpha(pairs)


def test_chance_of_more_answers_and_ties() -> None:
    ann = [0, 1, T, T]
    bob = [0, 2, T, B]
    pairs = [(said(i, "ann", a, 4), said(i, "bob", b, 4)) for i, (a, b) in enumerate(zip(ann, bob, strict=True))]
    chance = 0.5 * 0.25 + 0 * 0.25 + 0.5 * 0.5 / 4  # ties, all bad, answers
    assert kappa(pairs) == pytest.approx((0.5 - chance) / (1 - chance))
    alike = 4 * 3 / 4 + 3 * 2  # ordered pairs of decisions of one kind: four for an answer, three ties, one "all bad"
    assert alpha(pairs) == pytest.approx(1 - 0.5 / ((56 - alike) / 56))


@pytest.mark.parametrize("n_answers", [2, 3, 4])
def test_chance_is_zero_and_unity_one(n_answers: int) -> None:
    random.seed(5)
    choices = [T, B, *range(n_answers)]
    pairs = [
        (said(i, "ann", random.choice(choices), n_answers), said(i, "bob", random.choice(choices), n_answers))
        for i in range(4000)
    ]
    assert kappa(pairs) == pytest.approx(0, abs=0.03)
    assert alpha(pairs) == pytest.approx(0, abs=0.03)
    same = [
        (one, said(int(one.item), "bob", one.verdict if one.choice is None else one.choice, n_answers))
        for one, _ in pairs
    ]
    assert kappa(same) == pytest.approx(1)
    assert alpha(same) == pytest.approx(1)


def test_where_nothing_can_differ() -> None:
    always = [(said(i, "ann", T), said(i, "bob", T)) for i in range(5)]
    assert kappa(always) is None
    assert alpha(always) is None
    assert alpha([]) is None


def test_everything_of_a_file() -> None:
    decisions = [
        said(0, "bob", 0, seconds=4.0), said(0, "ann", 0, seconds=1.0), said(0, "eve", 1),
        said(1, "ann", T, seconds=3.0), said(1, "bob", B), said(2, "ann", 1, seconds=8.0),
    ]  # fmt: skip
    found = measure(decisions)
    assert found.n_items == 2
    assert found.equal == pytest.approx(1 / 4)  # ann-bob, ann-eve, bob-eve on the first, ann-bob on the second
    assert [pair.labellers for pair in found.pairs] == [("ann", "bob"), ("ann", "eve"), ("bob", "eve")]
    assert [(pair.n_items, pair.equal) for pair in found.pairs] == [(2, 0.5), (1, 0.0), (1, 0.0)]
    ann, bob, eve = found.people
    assert (ann.n_decisions, ann.ties, ann.all_bad, ann.first, ann.seconds) == (3, 1 / 3, 0, 0.5, 3.0)
    assert (bob.all_bad, eve.seconds) == (0.5, None)


def test_one_person_alone() -> None:
    found = measure([said(0, "ann", 0), said(1, "ann", T)])
    assert (found.pairs, found.n_items, found.equal, found.alpha) == ((), 0, None, None)


def test_order_plays_no_part() -> None:
    decisions = [said(i, name, (i + len(name)) % 3, 3) for i, name in product(range(6), ["ann", "bobby", "eve"])]
    for one, other in combinations([decisions, decisions[::-1]], 2):
        assert measure(one).alpha == pytest.approx(measure(other).alpha)
