"""(1) and (2) through `judge`, against plain loops; the penalty for answers without an end; whitening."""

import math
import statistics
from typing import Any

import pytest
import torch
from torch import Tensor

from clearppo.batch import Feedback, Rollout
from clearppo.core.normalise import FixedMoments, RunningScaling
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


def test_answers_without_an_end_get_another_score() -> None:
    plain, fined = marked(), marked(missing_eos_score=-1)
    assert fined.scores.tolist() == [1.0, -1.0, -1.0]
    assert fined.raw_scores.tolist() == [1.0, -2.0, 0.5]
    assert fined.parts["fixed"].tolist() == [1.0, -2.0, 0.5]
    assert str(fined.parts["missing_eos_score"].tolist()) == "[nan, -1.0, -1.0]"
    difference = fined.rewards - plain.rewards  # the row keeps the price of its KL
    expected = torch.zeros_like(difference)
    expected[1, 0], expected[2, 3] = 1.0, -1.5
    assert torch.allclose(difference, expected, atol=1e-12)


def test_scores_without_options_are_the_raw_ones() -> None:
    assert marked().raw_scores.tolist() == marked().scores.tolist() == [1.0, -2.0, 0.5]


def test_scores_are_scaled_then_clipped_then_fined() -> None:
    scaling = FixedMoments(mean=-1.0, std=0.5)  # 1, -2, 0.5 -> 4, -2, 3
    assert marked(scaling=scaling).scores.tolist() == [4.0, -2.0, 3.0]
    assert marked(scaling=scaling, score_clip=2.5).scores.tolist() == [2.5, -2.0, 2.5]
    assert marked(score_clip=0.75).scores.tolist() == [0.75, -0.75, 0.5]
    fined = marked(scaling=scaling, score_clip=2.5, missing_eos_penalty=10.0)
    assert fined.scores.tolist() == [2.5, -12.0, -7.5]  # a fine beyond the clip
    assert fined.parts["missing_eos_penalty"].tolist() == [0.0, -10.0, -10.0]
    replaced = marked(scaling=scaling, score_clip=2.5, missing_eos_score=-7.0)
    assert replaced.scores.tolist() == [2.5, -7.0, -7.0]
    for feedback in (fined, replaced):
        assert feedback.raw_scores.tolist() == [1.0, -2.0, 0.5]
        assert feedback.parts["fixed"].tolist() == [1.0, -2.0, 0.5]
        ends = [feedback.rewards[i, length - 1] + feedback.kl[i, length - 1] for i, length in enumerate(LENGTHS)]
        assert [float(end) for end in ends] == pytest.approx(feedback.scores.tolist(), abs=1e-12)


@pytest.mark.parametrize("centred", [False, True])
def test_a_running_scaling_counts_the_batch_first(centred: bool) -> None:
    scaling: Any = RunningScaling(centred=centred)
    seen: list[float] = []
    for batch in ((1.0, 3.0, 2.0), (10.0, -2.0, 0.0)):
        seen += batch
        feedback = judge(rollout(), Fixed(*batch), Table(), scaling=scaling)
        mean = statistics.mean(seen) if centred else 0.0
        expected = [(score - mean) / statistics.stdev(seen) for score in batch]
        assert feedback.scores.tolist() == pytest.approx(expected, rel=1e-6)
        scaling = scaling.updated(feedback.raw_scores)  # what the loop does
    assert scaling.moments.count == 6


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_in_place_of_another_is_finite(score: float) -> None:
    with pytest.raises(ConfigError, match=r"missing_eos_score = .*Use --missing_eos_score -1"):
        marked(missing_eos_score=score)


def test_a_score_is_lowered_or_replaced() -> None:
    with pytest.raises(ConfigError, match=r"missing_eos_penalty = 1 and missing_eos_score = -1: .*not both"):
        marked(missing_eos_penalty=1, missing_eos_score=-1)


@pytest.mark.parametrize("clip", [0, -5.0, math.nan, math.inf])
def test_a_clip_that_is_none(clip: float) -> None:
    with pytest.raises(ConfigError, match=r"score_clip = .*above 0 and finite"):
        marked(score_clip=clip)


def test_mistakes_are_found_before_the_scorer_is_asked() -> None:
    class Unwanted(Fixed):
        def __call__(self, rollout: Rollout) -> Scores:
            raise AssertionError("a scorer may cost minutes")

    with pytest.raises(ConfigError):
        judge(rollout(), Unwanted(), Table(), score_clip=-1.0)


@pytest.mark.parametrize("unbiased", [False, True])
def test_whitening_with_either_variance(unbiased: bool) -> None:
    mask = rollout().mask
    plain = marked(kl_coef=0.1).rewards[mask].tolist()
    deviation = (statistics.stdev if unbiased else statistics.pstdev)(plain)
    expected = [(x - statistics.mean(plain)) / deviation + statistics.mean(plain) for x in plain]
    white = marked(kl_coef=0.1, whiten_rewards=True, unbiased_whitening=unbiased).rewards[mask]
    assert white.tolist() == pytest.approx(expected, rel=1e-6)


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
