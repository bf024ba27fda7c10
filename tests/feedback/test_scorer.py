"""The socket: joining sources, names, rows that a source does not score, and how rows are named in messages."""

import math

import pytest
import torch

from clearppo.batch import Rollout
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback import FakeScorer, Scores, WeightedScorer
from clearppo.feedback.scorer import rows_in_words, shorten
from tests.tiny import tiny_rollout

NA = math.nan


class Given:
    """A scorer with the scores that it is given."""

    def __init__(self, name: str, *values: float) -> None:
        self.names = (name,)
        self.values = torch.tensor(values, dtype=torch.float32)

    def __call__(self, rollout: Rollout) -> Scores:
        return Scores(total=self.values, parts={self.names[0]: self.values})


def rollout(rows: int = 3) -> Rollout:
    return tiny_rollout([f"prompt {i}" for i in range(rows)], ["x"] * rows)


def test_the_total_is_weighted_and_the_parts_are_not() -> None:
    scores = WeightedScorer([Given("a", 1, 2, 3), Given("b", 10, 20, -5)], [2.0, -0.5])(rollout())
    assert scores.total.tolist() == [-3.0, -6.0, 8.5]
    assert {name: part.tolist() for name, part in scores.parts.items()} == {"a": [1, 2, 3], "b": [10, 20, -5]}
    assert WeightedScorer([Given("a", 1, 2, 3), Given("b", 10, 20, -5)])(rollout()).total.tolist() == [11, 22, -2]


def test_names_are_made_unique() -> None:
    scorer = WeightedScorer([Given("a", 1), Given("a", 2), Given("a_2", 3), Given("a", 4)])
    assert scorer.names == ("a", "a_2", "a_2_2", "a_3")
    parts = scorer(rollout(1)).parts
    assert [parts[name].item() for name in scorer.names] == [1, 2, 3, 4]


def test_sums_may_be_nested() -> None:
    inner = WeightedScorer([Given("a", 1, NA, 3), Given("b", 1, 1, 1)], [1, 2])
    scores = WeightedScorer([inner, Given("a", 5, 5, 5)], [10, 1])(rollout())
    assert scores.total.tolist() == [35, 25, 55]
    assert tuple(scores.parts) == ("a", "b", "a_2")


def test_a_source_that_does_not_apply_counts_nothing() -> None:
    scores = WeightedScorer([Given("a", 1, NA, 3), Given("b", NA, 20, 30)], [2, 1])(rollout())
    assert scores.total.tolist() == [2, 20, 36]
    assert scores.parts["a"].isnan().tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("sources", "who"),
    [
        ([Given("a", 1, NA, NA)], "`a` gave no score"),
        ([Given("a", 1, NA, NA), Given("b", 1, NA, NA)], "none of a, b gave a score"),
    ],
)
def test_a_row_that_no_source_scores(sources: list[Given], who: str) -> None:
    with pytest.raises(RewardError) as caught:
        WeightedScorer(sources)(rollout())
    assert who in str(caught.value)
    assert 'rows 2 ("prompt 1"), 3 ("prompt 2") of 3' in str(caught.value)


def test_weights_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"1 reward weights for 2 reward sources \(a, b\)"):
        WeightedScorer([Given("a", 1), Given("b", 1)], [1.0])
    with pytest.raises(ConfigError, match="a reward weight is nan"):
        WeightedScorer([Given("a", 1)], [math.nan])
    with pytest.raises(ConfigError, match="no source of scores"):
        WeightedScorer([])


def test_the_fake_scores_lengths() -> None:
    assert FakeScorer(0.5)(tiny_rollout(["a", "b"], ["x", "y"], lengths=[3, 1])).total.tolist() == [1.5, 0.5]


def test_rows_in_words() -> None:
    prompts = tiny_rollout(["one", "two\n  lines", "w" * 50, *"defg"], ["x"] * 7).prompts
    assert rows_in_words([1], prompts) == 'row 2 ("two lines") of 7'
    assert rows_in_words(list(range(7)), prompts) == (
        f'rows 1 ("one"), 2 ("two lines"), 3 ("{"w" * 39}…"), 4 ("d"), 5 ("e") and 2 more of 7'
    )
    assert shorten([{"role": "user", "content": "first"}, {"role": "user", "content": "last"}]) == '"last"'
