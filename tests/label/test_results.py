"""Who is preferred: against counts by hand, against the interval of the reward model's report, and under chance."""

import random

import pytest

from clearppo.data.labels import Decision
from clearppo.train.agreement import wilson as reported
from clearppo.ui.label_results import duels, wilson
from tests.label.conftest import decision

AB = (("A",), ("B",))


def said(prompt: int, what: int | str, sources: tuple[tuple[str, ...], ...] = AB, labeller: str = "ann") -> Decision:
    verdict, choice = (what, None) if isinstance(what, str) else ("better", what)
    answers = tuple(f"a{n}" for n in range(len(sources)))
    return decision(
        str(prompt), labeller, verdict, choice, prompt=f"Q{prompt}", completions=answers, sources=sources,
        order=tuple(range(len(sources))),
    )  # fmt: skip


def test_wins_ties_and_losses() -> None:
    (duel,) = duels([said(0, 1), said(1, 1), said(2, 0), said(3, "tie"), said(4, "all bad"), said(5, 1)])
    assert duel.sources == ("B", "A")  # the better one first
    assert (duel.wins, duel.ties, duel.all_bad, duel.losses, duel.n_prompts) == (3, 1, 1, 1, 6)
    assert duel.rate == pytest.approx(4 / 6)
    assert (duel.low, duel.high) == pytest.approx(reported(4 / 6, 6))
    assert not duel.is_settled


def test_which_answer_came_first_in_the_file_means_nothing() -> None:
    ahead = duels([said(n, int(n == 0)) for n in range(9)])
    assert duels([said(n, int(n != 0), AB[::-1]) for n in range(9)]) == ahead
    assert ahead[0].is_settled
    assert ahead[0].low is not None
    assert 0.5 < ahead[0].low < 0.6


def test_a_prompt_counts_once() -> None:
    """Ten people who all say the same of one prompt know no more of the two models than that prompt does."""
    crowd = [said(0, 0, labeller=f"p{n}") for n in range(10)]
    (duel,) = duels([*crowd, said(1, 1)])
    assert (duel.wins, duel.losses, duel.n_prompts, duel.rate) == (10, 1, 2, 0.5)
    assert not duels(crowd)[0].is_settled


def test_three_models() -> None:
    three = (("A",), ("B",), ("C",))
    found = {duel.sources: duel for duel in duels([said(0, 0, three), said(1, 0, three), said(2, 2, three)])}
    assert (found["A", "B"].wins, found["A", "B"].n_prompts) == (2, 2)  # that C was better says nothing of them
    assert (found["A", "C"].wins, found["A", "C"].losses) == (2, 1)
    assert found["C", "B"].wins == 1


def test_an_answer_of_both_is_neither_s() -> None:
    found = duels([said(0, 0, (("A", "B"), ("C",)))])
    assert [(duel.sources, duel.wins) for duel in found if duel.n_prompts] == [(("A", "C"), 1), (("B", "C"), 1)]
    assert found[0].sources == ("A", "B")  # both are named, and nothing compares them


def test_more_answers_are_more_chances() -> None:
    """Two answers of one against one of the other are left out, and counted."""
    uneven = (("A",), ("A",), ("B",))
    (duel,) = duels([said(0, 0, uneven), said(1, "tie", uneven)])
    assert (duel.n_prompts, duel.n_uneven, duel.rate) == (0, 2, None)
    assert not duel.is_settled


def test_unknown_writers_have_no_results() -> None:
    assert duels([said(0, 0, ()), said(1, 0, ((), ())), said(2, 0, (("A",), ("A",)))]) == ()


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 1.0])
def test_the_interval_is_the_report_s(share: float) -> None:
    assert wilson(share, 15) == pytest.approx(reported(share, 15))


def test_by_chance_hardly_anybody_is_preferred() -> None:
    random.seed(11)
    settled = sum(
        duels([said(n, random.choice([0, 1, 0, 1, "tie"])) for n in range(40)])[0].is_settled for _ in range(400)
    )
    assert settled <= 0.07 * 400
