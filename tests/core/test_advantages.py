import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core import advantages as core
from tests.core.cases import close, masks, normals, quick, seeds
from tests.oracles import advantages as oracle

units = st.sampled_from([0, 0.5, 0.95, 1, 1.0])


@quick
@given(masks(max_length=8), seeds, units)
def test_returns_are_those_of_the_loops(mask, seed, gamma):
    (rewards,) = normals(seed, mask.shape)
    close(core.returns(rewards, mask, gamma), oracle.returns(rewards.tolist(), mask.tolist(), gamma))


@quick
@given(masks(max_length=8), seeds, units, units)
def test_gae_is_that_of_the_loops(mask, seed, gamma, lam):
    rewards, values = normals(seed, mask.shape, mask.shape)
    expected = oracle.gae(rewards.tolist(), values.tolist(), mask.tolist(), gamma, lam)
    for actual, wanted in zip(core.gae(rewards, values, mask, gamma, lam), expected, strict=True):
        close(actual, wanted)


@quick
@given(masks(max_length=8), seeds, units, units, units)
def test_a_lambda_of_its_own_makes_the_critics_returns(mask, seed, gamma, lam, critic_lam):
    rewards, values = normals(seed, mask.shape, mask.shape)
    expected = oracle.decoupled(rewards.tolist(), values.tolist(), mask.tolist(), gamma, lam, critic_lam)
    for actual, wanted in zip(core.gae(rewards, values, mask, gamma, lam, critic_lam), expected, strict=True):
        close(actual, wanted)


@quick
@given(masks(max_length=8), seeds, units)
def test_at_critic_lam_1_the_critic_learns_the_discounted_rewards(mask, seed, gamma):
    """VAPO's choice: whatever the actor's lambda, the critic's target holds nothing of the critic itself."""
    rewards, values = normals(seed, mask.shape, mask.shape)
    close(core.gae(rewards, values, mask, gamma, 0.3, 1.0)[1], core.returns(rewards, mask, gamma))


@quick
@given(masks(max_length=8), seeds)
def test_gae_at_1_1_is_the_article(mask, seed):
    rewards, values = normals(seed, mask.shape, mask.shape)
    advantages, returns = core.gae(rewards, values, mask)
    equation_3 = core.returns(rewards, mask)
    close(returns, equation_3)
    close(advantages, torch.where(mask, equation_3 - values, 0.0))  # (4)


@quick
@given(masks(max_length=8), seeds, units)
def test_gae_at_lam_0_is_the_td_error(mask, seed, gamma):
    rewards, values = normals(seed, mask.shape, mask.shape)
    advantages, _ = core.gae(rewards, values, mask, gamma, 0.0)
    for row, keeps, r, v in zip(advantages, mask, rewards, values, strict=True):
        r, v = r[keeps], torch.cat([v[keeps], torch.zeros(1)])
        close(row[keeps], r + gamma * v[1:] - v[:-1])


@quick
@given(masks(max_length=8), seeds, units, units)
def test_a_perfect_critic_leaves_no_advantage(mask, seed, gamma, lam):
    (rewards,) = normals(seed, mask.shape)
    values = core.returns(rewards, mask, gamma)
    advantages, returns = core.gae(rewards, values, mask, gamma, lam)
    close(advantages, torch.zeros(mask.shape))
    close(returns, values)


def test_holes_neither_discount_nor_interrupt_by_hand():
    nan = math.nan
    rewards = torch.tensor([[1.0, nan, nan, 2.0, nan]], dtype=torch.float64)
    values = torch.tensor([[0.5, nan, nan, 4.0, nan]], dtype=torch.float64)
    mask = torch.tensor([[True, False, False, True, False]])
    close(core.returns(rewards, mask, 0.5), [[2.0, 0, 0, 2.0, 0]])
    advantages, returns = core.gae(rewards, values, mask, gamma=0.5, lam=0.5)
    close(advantages, [[1 + 0.5 * 4 - 0.5 + 0.25 * (2 - 4), 0, 0, 2 - 4, 0]])
    close(returns, [[2.5, 0, 0, 2, 0]])


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_discounts_lie_between_0_and_1(bad):
    x, mask = torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="gamma = "):
        core.returns(x, mask, bad)
    with pytest.raises(ValueError, match="gamma = "):
        core.gae(x, x, mask, gamma=bad)
    with pytest.raises(ValueError, match="lam = "):
        core.gae(x, x, mask, lam=bad)
    with pytest.raises(ValueError, match="critic_lam = "):
        core.gae(x, x, mask, critic_lam=bad)


@st.composite
def grouped(draw):
    """(totals [B], group_size) in float64, of any scale and far from 0 or not."""
    size, groups = draw(st.integers(2, 5)), draw(st.integers(1, 4))
    scale, shift = draw(st.sampled_from([1e-2, 1.0, 100.0])), draw(st.sampled_from([0.0, -20.0, 1e3]))
    (x,) = normals(draw(seeds), (groups * size,))
    return scale * x + shift, size


@quick
@given(grouped())
def test_rloo_leaves_one_out(drawn):
    totals, size = drawn
    close(core.rloo(totals, size), oracle.rloo(totals.tolist(), size), rtol=1e-9, atol=1e-10)


@quick
@given(grouped(), st.sampled_from([0, 1e-6, 1e-4]))
def test_grpo_standardises_within_groups(drawn, eps):
    totals, size = drawn
    close(core.grpo(totals, size, eps), oracle.grpo(totals.tolist(), size, eps), rtol=1e-7, atol=1e-9)


def test_groups_by_hand():
    totals = torch.tensor([1.0, 2.0, 6.0, -1.0, -1.0, 2.0], dtype=torch.float64)
    close(core.rloo(totals, 3), [1 - 4, 2 - 3.5, 6 - 1.5, -1 - 0.5, -1 - 0.5, 2 + 1])
    std = math.sqrt((4 + 1 + 9) / 2), math.sqrt(3.0)
    close(core.grpo(totals, 3, 0), [-2 / std[0], -1 / std[0], 3 / std[0], -1 / std[1], -1 / std[1], 2 / std[1]])
    near = std[0] + 1e-4, std[1] + 1e-4
    close(core.grpo(totals, 3), [-2 / near[0], -1 / near[0], 3 / near[0], -1 / near[1], -1 / near[1], 2 / near[1]])


@pytest.mark.parametrize("estimate", [core.rloo, core.grpo, lambda x, n: core.grpo(x, n, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_answers_that_earned_the_same_are_neither_better_nor_worse(estimate, dtype):
    """0 exactly: the mean of three times 0.1 is not 0.1, and GRPO divides by the deviation."""
    for value in (0.0, 0.1, -1e6, 1e30):
        assert not estimate(torch.full((12,), value, dtype=dtype), 3).any()


@quick
@given(grouped(), st.randoms(use_true_random=False))
def test_groups_do_not_see_each_other(drawn, random):
    totals, size = drawn
    order = list(range(len(totals) // size))
    random.shuffle(order)
    shuffled = totals.view(-1, size)[order].flatten()
    for estimate in (core.rloo, core.grpo):
        whole = estimate(totals, size).view(-1, size)
        close(estimate(shuffled, size).view(-1, size), whole[order], rtol=1e-12)
        close(whole.sum(dim=1), torch.zeros(len(order)), atol=1e-9 * max(1.0, float(whole.abs().max())))
        close(estimate(totals[:size], size), whole[0], rtol=1e-12)


@quick
@given(grouped(), st.sampled_from([-30.0, 0.5, 1e3]), st.sampled_from([0.1, 7.0]))
def test_an_offset_changes_nothing_and_a_scale_nothing_of_grpo(drawn, offset, scale):
    totals, size = drawn
    spread = float(totals.std())
    close(core.rloo(scale * totals + offset, size), scale * core.rloo(totals, size), rtol=1e-7, atol=1e-9 * spread)
    close(core.grpo(scale * totals + offset, size, 0), core.grpo(totals, size, 0), rtol=1e-6, atol=1e-8)


@quick
@given(grouped())
def test_rloo_whitened_is_reinforce_plus_plus_with_baseline(drawn):
    """Less its group's mean, then whitened over the batch: the factor between the two is whitened away."""
    totals, size = drawn
    centred = (totals.view(-1, size) - totals.view(-1, size).mean(dim=1, keepdim=True)).flatten()
    close(core.rloo(totals, size) / core.rloo(totals, size).std(), centred / centred.std(), rtol=1e-7, atol=1e-9)


def test_the_leave_one_out_baseline_leaves_the_gradient_unbiased():
    """A bandit of three arms, all 27 groups of three draws weighted by their probability: grad E[reward] exactly."""
    logits = torch.tensor([0.3, -0.5, 0.9], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, -2.0, 0.7], dtype=torch.float64)
    log_p = logits.log_softmax(0)
    expected = torch.autograd.grad((log_p.exp() * rewards).sum(), logits, retain_graph=True)[0]
    found = torch.zeros(3, dtype=torch.float64)
    for draws in itertools.product(range(3), repeat=3):
        arms = list(draws)
        estimate = (core.rloo(rewards[arms], 3) * log_p[arms]).mean()
        weight = log_p[arms].sum().exp().detach()
        found += weight * torch.autograd.grad(estimate, logits, retain_graph=True)[0]
    close(found, expected)


@pytest.mark.parametrize("estimate", [core.rloo, core.grpo])
def test_groups_that_are_none(estimate):
    for size in (1, 0, -3):
        with pytest.raises(ValueError, match=f"group_size = {size}; .*must be 2 or more"):
            estimate(torch.zeros(6), size)
    with pytest.raises(ValueError, match="group_size = 4 does not divide the 6 answers"):
        estimate(torch.zeros(6), 4)
    with pytest.raises(ValueError, match="eps = "):
        core.grpo(torch.zeros(6), 2, -1e-4)
