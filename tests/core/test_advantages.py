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
