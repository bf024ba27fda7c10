"""Credit by each estimator against loops over the tokens; what whitening touches; what must not matter."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.batch import Experience, Feedback, Rollout
from clearppo.learning import credit
from tests.oracles import advantages as oracle
from tests.oracles import masks
from tests.tiny import tiny_rollout

LENGTHS = [3, 1, 4, 2, 5, 2]
CRITIC_FREE = ("rloo", "grpo", "reinforce++")


def rollout(lengths: list[int] = LENGTHS, values: float | None = None) -> Rollout:
    """Old values are random numbers, or all `values`."""
    made = tiny_rollout(["p"] * len(lengths), ["x"] * len(lengths), lengths=lengths)
    old_values = made.old_values.double() if values is None else torch.full(made.mask.shape, values)
    return replace(made, old_values=old_values)


def feedback(mask: torch.Tensor, seed: int = 3, rubbish: float = 0.0) -> Feedback:
    generator = torch.Generator().manual_seed(seed)
    rewards, ref = (torch.randn(mask.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    rewards = rewards.masked_fill(~mask, rubbish)
    scores = torch.zeros(len(mask))
    return Feedback(
        scores=scores, raw_scores=scores, parts={}, ref_log_probs=ref.masked_fill(~mask, 0.0), kl=ref, rewards=rewards
    )


def credited(lengths: list[int] = LENGTHS, **options: Any) -> Experience:
    made = rollout(lengths)
    return credit(made, feedback(made.mask), **options)


def lists(made: Rollout, seed: int = 3) -> tuple[Any, Any]:
    return feedback(made.mask, seed).rewards.tolist(), made.mask.tolist()


def close(actual: torch.Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("critic_lam", [None, 1.0, 0.3])
def test_gae_is_that_of_the_loops(critic_lam: float | None) -> None:
    found = credited(gamma=0.9, lam=0.8, critic_lam=critic_lam)
    made = rollout()
    rewards, mask = lists(made)
    wanted = oracle.decoupled(
        rewards, made.old_values.tolist(), mask, 0.9, 0.8, 0.8 if critic_lam is None else critic_lam
    )
    close(found.advantages, wanted[0])
    close(found.returns, wanted[1])


@pytest.mark.parametrize("group", [2, 3, 6])
@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_every_token_of_an_answer_has_its_answers_advantage(estimator: Any, group: int) -> None:
    found = credited(estimator=estimator, group_size=group)
    rewards, mask = lists(rollout())
    totals = [math.fsum(masks.cells([row], [keeps])) for row, keeps in zip(rewards, mask, strict=True)]
    compared = oracle.rloo(totals, group) if estimator == "rloo" else oracle.grpo(totals, group, 1e-4)
    close(found.advantages, [[a if keep else 0.0 for keep in row] for a, row in zip(compared, mask, strict=True)])
    close(found.returns, oracle.returns(rewards, mask))


def test_reinforce_plus_plus_credits_the_rewards_to_come() -> None:
    rewards, mask = lists(rollout())
    for gamma in (1.0, 0.7):
        found = credited(estimator="reinforce++", gamma=gamma)
        close(found.advantages, oracle.returns(rewards, mask, gamma))
        close(found.returns, oracle.returns(rewards, mask, gamma))


def test_reinforce_plus_plus_needs_no_groups_and_gae_none_either() -> None:
    for estimator in ("gae", "reinforce++"):
        one, other = credited(estimator=estimator), credited(estimator=estimator, group_size=4)
        assert torch.equal(one.advantages, other.advantages)


@pytest.mark.parametrize("estimator", CRITIC_FREE)
def test_without_a_critic_old_values_are_never_read(estimator: Any) -> None:
    for values in (math.nan, 7.0):
        made = rollout(values=values)
        found = credit(made, feedback(made.mask), estimator=estimator, group_size=2, whiten_advantages=True)
        plain = credited(estimator=estimator, group_size=2, whiten_advantages=True)
        assert torch.equal(found.advantages, plain.advantages)
        assert torch.equal(found.returns, plain.returns)


@pytest.mark.parametrize("estimator", ["gae", *CRITIC_FREE])
def test_masked_cells_are_never_read_and_hold_0(estimator: Any) -> None:
    made = rollout()
    options: Any = {"estimator": estimator, "group_size": 3, "whiten_advantages": True}
    found = credit(made, feedback(made.mask, rubbish=math.nan), **options)
    clean = credit(made, feedback(made.mask), **options)
    for name in ("advantages", "returns"):
        assert torch.equal(getattr(found, name), getattr(clean, name))
        assert not getattr(found, name)[~made.mask].any()


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("estimator", ["gae", "rloo", "reinforce++"])
def test_whitening_is_over_all_tokens_and_leaves_returns(estimator: Any, unbiased: bool) -> None:
    options: Any = {"estimator": estimator, "group_size": 2, "gamma": 0.9, "lam": 0.8}
    plain = credited(**options)
    white = credited(**options, whiten_advantages=True, unbiased=unbiased)
    mask = rollout().mask.tolist()
    close(white.advantages, masks.whiten(plain.advantages.tolist(), mask, unbiased=unbiased))
    assert torch.equal(plain.returns, white.returns)


def test_grpo_is_not_whitened_twice() -> None:
    plain, white = (credited(estimator="grpo", group_size=3, whiten_advantages=w) for w in (False, True))
    assert torch.equal(plain.advantages, white.advantages)


@given(st.lists(st.integers(1, 5), min_size=4, max_size=4), st.integers(0, 99))
def test_the_kl_in_the_rewards_counts(lengths: list[int], seed: int) -> None:
    """Two groups of two: a nat of KL anywhere in an answer costs it against its neighbour, and no one else."""
    made = rollout(lengths)
    marks = feedback(made.mask, seed)
    dearer = marks.rewards.clone()
    dearer[0, 0] -= 1.0
    before, after = (
        credit(made, replace(marks, rewards=rewards), estimator="rloo", group_size=2).advantages
        for rewards in (marks.rewards, dearer)
    )
    expected = torch.tensor([-1.0, 1.0, 0.0, 0.0], dtype=torch.float64)[:, None] * made.mask
    torch.testing.assert_close(after - before, expected, atol=1e-9, rtol=0)


def test_answers_that_earned_the_same_teach_nothing() -> None:
    made = rollout([1, 3, 2])
    rewards = torch.zeros(made.mask.shape, dtype=torch.float64)
    rewards[0, 0] = rewards[1, 2] = rewards[2, 1] = 0.1
    marks = replace(feedback(made.mask), rewards=rewards)
    for estimator in ("rloo", "grpo"):
        assert not credit(made, marks, estimator=estimator, group_size=3).advantages.any()
    assert not credit(made, marks, estimator="rloo", group_size=3, whiten_advantages=True).advantages.any()


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_groups_that_are_none(estimator: Any) -> None:
    with pytest.raises(ValueError, match=r"group_size = 1; .*must be 2 or more"):
        credited(estimator=estimator)
    with pytest.raises(ValueError, match="group_size = 4 does not divide the 6 answers"):
        credited(estimator=estimator, group_size=4)


def test_the_references_log_probs_travel_with_their_rows() -> None:
    made = rollout()
    marks = feedback(made.mask)
    whole = credit(made, marks)
    assert torch.equal(whole.ref_log_probs, marks.ref_log_probs)
    part = whole.select([3, 1])
    assert torch.equal(part.ref_log_probs, marks.ref_log_probs[[3, 1], :2])
    assert torch.equal(part.advantages, whole.advantages[[3, 1], :2])
