import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clearppo.core import logprobs as core
from tests.core.cases import close, normals, quick, same_bits, seeds, with_grad
from tests.oracles import logprobs as oracle

temperatures = st.sampled_from([1.0, 1, 0.7, 2.5])


def random_tokens(seed, rows, length, vocabulary):
    return torch.randint(vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def at_each_position(function, logits, *per_position, **named):
    """`function` on the list of logits of every position: nested lists [B][T]."""
    return [
        [function(cell, *(x[i, j].item() for x in per_position), **named) for j, cell in enumerate(row)]
        for i, row in enumerate(logits.tolist())
    ]


@quick
@given(st.integers(1, 3), st.integers(1, 4), st.integers(2, 7), seeds, temperatures)
def test_values_and_gradients_are_those_of_the_loops(rows, length, vocabulary, seed, temperature):
    tokens = random_tokens(seed, rows, length, vocabulary)
    logits = 4 * normals(seed, (rows, length, vocabulary))[0]

    (live,) = with_grad(logits)
    log_probs = core.log_probs(live, tokens, temperature)
    log_probs.sum().backward()
    close(log_probs, at_each_position(oracle.log_prob, logits, tokens, temperature=temperature))
    close(live.grad, at_each_position(oracle.log_prob_gradient, logits, tokens, temperature=temperature))

    (live,) = with_grad(logits)
    entropy = core.entropy(live, temperature)
    entropy.sum().backward()
    close(entropy, at_each_position(oracle.entropy, logits, temperature=temperature))
    close(live.grad, at_each_position(oracle.entropy_gradient, logits, temperature=temperature))


@quick
@given(seeds, temperatures)
def test_both_at_once_are_the_two(seed, temperature):
    tokens = random_tokens(seed, 2, 3, 5)
    (logits,) = normals(seed, (2, 3, 5))
    both, apart = with_grad(logits, logits)
    log_probs, entropy = core.log_probs_and_entropy(both, tokens, temperature)
    same_bits(log_probs, core.log_probs(apart, tokens, temperature))
    same_bits(entropy, core.entropy(apart, temperature))
    (log_probs + 2 * entropy).sum().backward()
    (core.log_probs(apart, tokens, temperature) + 2 * core.entropy(apart, temperature)).sum().backward()
    close(both.grad, apart.grad)


def test_both_at_once_take_one_log_softmax(monkeypatch):
    calls = []
    real = torch.log_softmax
    monkeypatch.setattr(torch, "log_softmax", lambda *a, **k: calls.append(1) or real(*a, **k))
    core.log_probs_and_entropy(torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long))
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_entropy_of_extreme_logits(dtype):
    rows = [[1e4, 0, -1e4], [0, -math.inf, -math.inf], [0, 0, -math.inf], [88.8, -88.8, 0], [1e30, 1e30, -1e30]]
    logits = torch.tensor([rows], dtype=dtype, requires_grad=True)
    entropy = core.entropy(logits)
    close(entropy, [[0, 0, math.log(2), 0, math.log(2)]], rtol=1e-6)
    assert (entropy >= 0).all()
    entropy.sum().backward()
    close(logits.grad, torch.zeros(1, 5, 3))


def test_forbidden_tokens_leave_the_others_alone():
    logits = torch.tensor([[[1.0, -math.inf, 2.0]]], dtype=torch.float64, requires_grad=True)
    log_probs = core.log_probs(logits, torch.tensor([[2]]))
    close(log_probs, [[-math.log1p(math.exp(-1))]])
    log_probs.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_temperature_divides_all_logits():
    logits = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64)
    close(core.log_probs(logits, torch.tensor([[0]]), 0.5), [[-math.log1p(math.exp(-4))]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened_before_anything_else(dtype):
    logits = normals(1, (2, 3, 50))[0].mul(10).to(dtype)
    tokens = random_tokens(2, 2, 3, 50)
    result = core.log_probs(logits, tokens, 0.7)
    assert result.dtype == torch.float32
    same_bits(result, core.log_probs(logits.float(), tokens, 0.7))
    same_bits(core.entropy(logits, 0.7), core.entropy(logits.float(), 0.7))


@pytest.mark.parametrize("itype", [torch.int32, torch.int64])
def test_tokens_of_any_integer_type(itype):
    assert core.log_probs(torch.zeros(1, 2, 4), torch.ones(1, 2, dtype=itype)).shape == (1, 2)


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperatures_must_be_positive(temperature):
    logits, tokens = torch.zeros(1, 2, 3), torch.zeros(1, 2, dtype=torch.long)
    for call in (
        lambda: core.log_probs(logits, tokens, temperature),
        lambda: core.entropy(logits, temperature),
        lambda: core.log_probs_and_entropy(logits, tokens, temperature),
    ):
        with pytest.raises(ValueError, match=r"temperature = .*above 0"):
            call()
