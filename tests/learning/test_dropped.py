"""Answers without a score are left out: nothing that is learned from the others depends on them."""

import math
from dataclasses import fields, replace
from typing import Any

import pytest
import torch

from clearppo.batch import Experience, Feedback, Rollout
from clearppo.core.normalise import RunningScaling
from clearppo.errors import RewardError
from clearppo.feedback import Scores, judge
from clearppo.learning import Passes, credit
from clearppo.learning.ppo import _mini_batches
from tests.tiny import tiny_rollout

SCORES = [1.0, math.nan, -2.0, 0.5, math.nan, 3.0]
STAYED = [0, 2, 3, 5]


class Given:
    names = ("given",)

    def __init__(self, scores: list[float], missing: frozenset[int]) -> None:
        self.scores = Scores(total=torch.tensor(scores), parts={"given": torch.tensor(scores)}, missing=missing)

    def __call__(self, rollout: Rollout) -> Scores:
        return self.scores


class Half:
    """A reference that gives every token half of the policy's log-prob."""

    def log_probs(self, rollout: Rollout) -> torch.Tensor:
        return rollout.old_log_probs / 2

    def full_kl(self, rollout: Rollout) -> torch.Tensor:
        return rollout.old_log_probs.abs()


def rollout() -> Rollout:
    reasons = ["stop", "length", "length", "stop", "stop", "length"]
    return tiny_rollout(list("abcdef"), list("uvwxyz"), finish_reasons=reasons)


def part(whole: Rollout, rows: list[int]) -> Rollout:
    """These rows alone, as if no others had been sampled."""
    kept = Experience(
        rollout=whole, advantages=whole.old_values, returns=whole.old_values, ref_log_probs=whole.old_values
    )
    return kept.select(rows).rollout


def marked(whole: Rollout, scores: list[float], **options: Any) -> Feedback:
    missing = frozenset(row for row, score in enumerate(scores) if math.isnan(score))
    return judge(whole, Given(scores, missing), Half(), kl_coef=0.1, **options)


JUDGING = [
    {},
    {"whiten_rewards": True},
    {"scaling": RunningScaling(centred=True), "score_clip": 1.0},
    {"missing_eos_penalty": 1.0, "estimator": "full"},
    {"missing_eos_score": -1.0},
]
CREDITING: list[dict[str, Any]] = [
    {"whiten_advantages": True},
    {"gamma": 0.9, "lam": 0.8},
    {"estimator": "reinforce++", "whiten_advantages": True},
]


@pytest.mark.parametrize("judging", JUDGING, ids=str)
@pytest.mark.parametrize("crediting", CREDITING, ids=str)
def test_the_others_are_as_if_they_were_alone(judging: dict[str, Any], crediting: dict[str, Any]) -> None:
    whole = rollout()
    feedback = marked(whole, SCORES, **judging)
    alone = part(whole, STAYED)
    expected = credit(alone, marked(alone, [SCORES[row] for row in STAYED], **judging), **crediting)
    found = credit(whole, feedback, **crediting)
    for field in ("advantages", "returns", "ref_log_probs"):
        assert torch.allclose(getattr(found, field), getattr(expected, field), atol=1e-6), field
    for field in fields(Rollout):
        ours, theirs = getattr(found.rollout, field.name), getattr(expected.rollout, field.name)
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs), field.name
    assert found.rollout.completions == ("u", "w", "x", "z")
    assert feedback.scored.tolist() == [row in STAYED for row in range(6)]
    assert feedback.scores.isnan().tolist() == [row not in STAYED for row in range(6)]
    assert feedback.rewards[~feedback.scored].abs().sum() == 0
    assert feedback.kl[1].abs().sum() > 0  # of what was written, scored or not


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_groups_stay_or_go_as_a_whole(estimator: Any) -> None:
    whole = rollout()
    found = credit(whole, marked(whole, SCORES), estimator=estimator, group_size=2)  # rows 0-1 and 4-5 go
    alone = part(whole, [2, 3])
    expected = credit(alone, marked(alone, [-2.0, 0.5]), estimator=estimator, group_size=2)
    assert torch.allclose(found.advantages, expected.advantages)
    assert found.rollout.completions == ("w", "x")
    with pytest.raises(RewardError, match="no prompt whose 3 answers all have a score"):
        credit(whole, marked(whole, SCORES), estimator=estimator, group_size=3)


def test_nothing_left_is_an_error() -> None:
    with pytest.raises(RewardError, match="not one of the 6 answers has a score"):
        marked(rollout(), [math.nan] * 6)


def test_a_row_that_is_nan_and_was_not_declared_missing_is_an_error() -> None:
    with pytest.raises(RewardError, match="gave no score"):
        judge(rollout(), Given(SCORES, frozenset({1})), Half())


@pytest.mark.parametrize(("count", "asked", "sizes"), [(8, 4, [2, 2, 2, 2]), (7, 4, [1, 2, 2, 2]), (2, 4, [1, 1])])
def test_mini_batches_share_what_is_left(count: int, asked: int, sizes: list[int]) -> None:
    passes = replace(Passes(epochs=2), num_mini_batches=asked)
    parts = list(_mini_batches(count, passes, torch.Generator().manual_seed(0)))
    for epoch in (0, 1):
        rows = [rows for of, rows in parts if of == epoch]
        assert [len(part) for part in rows] == sizes
        assert sorted(row for part in rows for row in part) == list(range(count))
