"""Truncated importance weights: against loops, by hand, and as weights of the actor's loss."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core.losses import actor_loss, importance_weights
from tests.core.cases import close, masks, normals, poisoned, quick, seeds, with_grad
from tests.oracles import losses as oracle

CLIPS = st.sampled_from([{}, {"clip": 0.2}, {"clip": 0.2, "clip_high": 0.28, "dual_clip": 3.0}])


@quick
@given(masks(), seeds, st.sampled_from([1.0, 1.3, 5]))
def test_weights_are_those_of_the_loops(mask, seed, cap):
    old, noise = normals(seed, mask.shape, mask.shape)
    sampler = old + 0.5 * noise
    weights = importance_weights(poisoned(old, mask), poisoned(sampler, mask), mask, cap)
    close(weights, oracle.importance_weights(old.tolist(), sampler.tolist(), mask.tolist(), cap))
    whole = importance_weights(poisoned(old, mask), poisoned(sampler, mask), mask, cap, "sequence")
    close(whole, oracle.importance_weights_of_answers(old.tolist(), sampler.tolist(), mask.tolist(), cap))


@quick
@given(masks(), seeds, CLIPS, st.sampled_from([None, 3]))
def test_a_tokens_loss_and_gradient_are_multiplied_with_its_weight(mask, seed, clip, count):
    advantages, old, new, weights = normals(seed, *[mask.shape] * 4)
    (live,) = with_grad(old + 0.5 * new)
    loss = actor_loss(advantages, old, live, mask, count, **clip, weights=poisoned(weights.exp(), mask))
    loss.backward()
    n = count or int(mask.sum())
    alone = [  # each token alone, by the oracle of the plain loss
        oracle.actor([[advantages[i, j].item()]], [[old[i, j].item()]], [[live[i, j].item()]], [[True]], n, **clip)
        for i, j in mask.nonzero().tolist()
    ]
    factors = weights.exp()[mask].tolist()
    close(loss, math.fsum(w * value for w, (value, _) in zip(factors, alone, strict=True)))
    expected = torch.zeros_like(old)
    expected[mask] = torch.tensor([w * slope[0][0] for w, (_, slope) in zip(factors, alone, strict=True)]).double()
    close(live.grad, expected, rtol=1e-6)


def test_by_hand():
    old = torch.tensor([[0.0, -1.0, -1.0, -1.0]]).double()
    sampler = torch.tensor([[0.0, -2.0, -0.5, -1e9]]).double()
    mask = torch.tensor([[True, True, True, True]])
    close(importance_weights(old, sampler, mask, 2), [[1.0, 2.0, math.exp(-0.5), 2.0]])
    close(importance_weights(old, sampler, mask, 5), [[1.0, math.e, math.exp(-0.5), 5.0]])


def test_no_gradient_flows_through_a_weight():
    old, sampler = with_grad(torch.zeros(1, 2).double(), torch.zeros(1, 2).double())
    assert not importance_weights(old, sampler, torch.ones(1, 2, dtype=torch.bool), 2.0).requires_grad


@pytest.mark.parametrize("cap", [0, -1.0])
def test_a_cap_that_leaves_nothing_is_refused(cap):
    with pytest.raises(ValueError, match="would leave no weight"):
        importance_weights(torch.zeros(1, 1), torch.zeros(1, 1), torch.ones(1, 1, dtype=torch.bool), cap)
