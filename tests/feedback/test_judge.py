"""(1) and (2) through `judge`, against plain loops; the penalty for answers without an end; whitening."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from clearppo.batch import Feedback, Rollout
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback import FakeScorer, Scores, judge
from tests.tiny import tiny_rollout

LENGTHS = [3, 1, 4]


def rollout() -> Rollout:
    return tiny_rollout(["a", "b", "c"], ["x"] * 3, lengths=LENGTHS, finish_reasons=["stop", "length", "length"])


class Table:
    """A reference that holds its answers, with rubbish where nobody may look."""

    def __init__(self, rubbish: float = math.nan) -> None:
        generator = torch.Generator().manual_seed(5)
        mask = rollout().mask
        self.numbers = -torch.rand(mask.shape, generator=generator, dtype=torch.float64)
        self.exact = torch.rand(mask.shape, generator=generator, dtype=torch.float64)
        self.numbers[~mask] = self.exact[~mask] = rubbish
        self.asked: list[str] = []

    def log_probs(self, rollout: Rollout) -> Tensor:
        self.asked.append("log_probs")
        return self.numbers

    def full_kl(self, rollout: Rollout) -> Tensor:
        self.asked.append("full_kl")
        return self.exact


class Fixed:
    names = ("fixed",)

    def __init__(self, *values: float) -> None:
        self.values = torch.tensor(values)

    def __call__(self, rollout: Rollout) -> Scores:
        return Scores(total=self.values, parts={"fixed": self.values})


def marked(**options: Any) -> Feedback:
    return judge(rollout(), Fixed(1.0, -2.0, 0.5), Table(), **options)


ESTIMATORS = {
    "k1": lambda d: d,
    "k2": lambda d: d * d / 2,
    "k3": lambda d: math.exp(-d) - 1 + d,
}


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
def test_rewards_are_the_price_of_kl_and_the_score_at_the_end(estimator: Any) -> None:
    feedback, table, old = marked(kl_coef=0.3, estimator=estimator), Table(), rollout().old_log_probs
    for i, length in enumerate(LENGTHS):
        for j in range(max(LENGTHS)):
            if j >= length:
                kl = reward = ref = 0.0
            else:
                ref = table.numbers[i, j].item()
                d = old[i, j].item() - ref
                kl = table.exact[i, j].item() if estimator == "full" else ESTIMATORS[estimator](d)
                reward = -0.3 * kl + ([1.0, -2.0, 0.5][i] if j == length - 1 else 0.0)
            assert feedback.ref_log_probs[i, j].item() == ref
            assert feedback.kl[i, j].item() == pytest.approx(kl, abs=1e-12)
            assert feedback.rewards[i, j].item() == pytest.approx(reward, abs=1e-12)
    assert feedback.scores.tolist() == [1.0, -2.0, 0.5]
    assert feedback.parts["fixed"].tolist() == [1.0, -2.0, 0.5]


def test_the_articles_coefficient_is_one_and_k1() -> None:
    feedback = marked()
    i, j = 0, 0
    assert feedback.rewards[i, j].item() == pytest.approx(Table().numbers[i, j].item() - rollout().old_log_probs[i, j])


def test_the_exact_kl_is_computed_only_when_it_is_asked_for() -> None:
    for estimator, expected in (("k1", ["log_probs"]), ("full", ["log_probs", "full_kl"])):
        table = Table()
        judge(rollout(), FakeScorer(), table, estimator=estimator)
        assert table.asked == expected


def test_answers_without_an_end_are_fined() -> None:
    plain, fined = marked(), marked(missing_eos_penalty=1.5)
    assert fined.scores.tolist() == [1.0, -3.5, -1.0]
    assert fined.parts["fixed"].tolist() == [1.0, -2.0, 0.5]
    assert fined.parts["missing_eos_penalty"].tolist() == [0.0, -1.5, -1.5]
    difference = fined.rewards - plain.rewards
    expected = torch.zeros_like(difference)
    expected[1, 0] = expected[2, 3] = -1.5
    assert torch.allclose(difference, expected, atol=1e-12)
    assert tuple(plain.parts) == ("fixed",)
    assert marked(missing_eos_penalty=0).parts["missing_eos_penalty"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf])
def test_a_penalty_that_is_none(penalty: float) -> None:
    with pytest.raises(ConfigError, match="missing_eos_penalty = "):
        marked(missing_eos_penalty=penalty)


def test_whitening_scales_and_keeps_the_mean() -> None:
    mask = rollout().mask
    plain, white = marked(kl_coef=0.1).rewards, marked(kl_coef=0.1, whiten_rewards=True).rewards
    values = plain[mask].tolist()
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((x - mean) ** 2 for x in values) / len(values) + 1e-8)
    expected = [(x - mean) / deviation + mean for x in values]
    assert white[mask].tolist() == pytest.approx(expected, abs=1e-12)
    assert not white[~mask].any()


def test_masked_cells_are_never_read() -> None:
    first = judge(rollout(), FakeScorer(), Table(math.nan), kl_coef=0.2, whiten_rewards=True)
    second = judge(rollout(), FakeScorer(), Table(7.0), kl_coef=0.2, whiten_rewards=True)
    for name in ("ref_log_probs", "kl", "rewards"):
        assert torch.equal(getattr(first, name), getattr(second, name))
        assert not getattr(first, name)[~rollout().mask].any()


def test_no_gradient_flows() -> None:
    class Learning(Fixed):
        def __call__(self, rollout: Rollout) -> Scores:
            weight = torch.ones(3, requires_grad=True)
            return Scores(total=self.values * weight, parts={"fixed": self.values * weight})

    feedback = judge(rollout(), Learning(1.0, 2.0, 3.0), Table())
    assert not feedback.scores.requires_grad
    assert not feedback.rewards.requires_grad


def test_scores_that_are_none() -> None:
    with pytest.raises(RewardError, match=r'`fixed` gave no score .*for row 2 \("b"\) of 3'):
        judge(rollout(), Fixed(1.0, math.nan, 2.0), Table())
    with pytest.raises(RewardError, match=r'infinite for rows 1 \("a"\), 3 \("c"\) of 3'):
        judge(rollout(), Fixed(math.inf, 1.0, -math.inf), Table())
    with pytest.raises(RewardError, match=r"fixed: scores of shape \(2,\) for 3 responses"):
        judge(rollout(), Fixed(1.0, 1.0), Table())
