"""Labelled answers become rows of comparisons: ties, identical answers, numbers; against plain loops and by hand."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clearppo.train.comparing import Answers, Tally, distinct, ordered_pairs, prefs_headline, tidy

tenths = st.integers(-50, 50).map(lambda n: n / 10)


def test_of_equal_answers_the_first_is_labelled() -> None:
    answers = ["a", "b", "a", "a", "b", "c", "b", ""]
    assert distinct(answers, 4) == [0, 1, 4, 5, 7]  # "b" of the second prompt is another answer than that of the first
    assert distinct(answers, 8) == [0, 1, 5, 7]
    assert distinct(["x", " x", "x\n", "X"], 4) == [0, 3]  # blanks around it make no other answer
    assert distinct(["", " "], 2) == [0]


@given(st.lists(tenths, min_size=1, max_size=6), st.integers(0, 30))
def test_pairs_are_those_with_a_larger_gap(scores: list[float], gap_in_tenths: int) -> None:
    whole = [round(score * 10) for score in scores]  # in integers, where a gap is exact
    expected = {(i, j) for i, a in enumerate(whole) for j, b in enumerate(whole) if a - b > gap_in_tenths}
    pairs = ordered_pairs(scores, gap_in_tenths / 10)
    assert {(i, j) for i, j in pairs} == expected
    assert len(pairs) == len(expected)


def test_a_gap_as_large_as_asked_for_is_a_tie_whatever_binary_says() -> None:
    assert 0.8 - 0.6 > 0.2  # in binary
    assert ordered_pairs([0.8, 0.6], 0.2) == []
    assert ordered_pairs([0.8, 0.5999], 0.2) == [[0, 1]]
    assert ordered_pairs([1e-9, 2e-9, 0.0], 0.0) == [[0, 2], [1, 0], [1, 2]]


def test_scores_are_written_as_people_write_them() -> None:
    import torch

    given_by_people = [0.3, -1.7, 1234.567, 1e-5, 0.0, 3.0]
    assert [tidy(score) for score in torch.tensor(given_by_people).tolist()] == given_by_people


def test_a_row_keeps_what_could_be_labelled() -> None:
    answers = Answers(prompt="p", columns={"tag": 7}, completions=("a", "b", "c"), scores=(1.0, None, 2.0))
    assert answers.row(0.0) == {
        "prompt": "p", "completions": ["a", "c"], "scores": [1.0, 2.0], "pairs": [[1, 0]], "tag": 7,
    }  # fmt: skip
    assert answers.row(1.0)["pairs"] == []


def test_the_sums() -> None:
    tally = Tally()
    rows = [
        Answers(prompt="p", columns={}, completions=("a", "b", "c"), scores=(1.0, 2.0, 2.0)).row(0.0),
        Answers(prompt="q", columns={}, completions=("a", "b"), scores=(5.0, 5.0)).row(0.0),
        Answers(prompt="r", columns={}, completions=("a", "b"), scores=(0.0, None)).row(0.0),
    ]
    tally.add_sampled([1, 2, 3, 4, 5, 6, 7, 8, 9], 7)
    for row, count in zip(rows, (3, 2, 2), strict=True):
        tally.add_row(row, count)
    made = tally.summary(Path("x.jsonl"))
    assert (made.prompts, made.tied_prompts, made.answers) == (1, 2, 3)
    assert (made.pairs, made.ties, made.identical, made.unlabelled) == (2, 2, 2, 1)
    assert made.mean_length == 5
    assert made.score_mean == 15 / 6
    assert made.score_std == pytest.approx((sum((s - 2.5) ** 2 for s in (1, 2, 2, 5, 5, 0)) / 6) ** 0.5)
    assert made.quantiles == (0.0, 0.5, 2.0, 5.0, 5.0)
    table = dict(made.table().rows)
    assert table["pairs of a better and a worse one"] == "2"
    assert table["half of the scores are below"] == "2"
    headline = prefs_headline({**tally.metrics(), "tokens_per_second": 80.0})
    assert headline == "2 pairs  2 ties  score +2.500  length 5  80 tok/s"
