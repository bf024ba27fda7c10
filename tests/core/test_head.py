"""Log-probs and entropy from hidden states, tile by tile: those of the whole logits, and of the loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import linear

from clearppo.core import head as core
from clearppo.core import logprobs
from tests.core.cases import close, normals, quick, same_bits, seeds, with_grad
from tests.oracles import logprobs as oracle

temperatures = st.sampled_from([1.0, 1, 0.7, 2.5])


def random_tokens(seed, n, vocabulary):
    return torch.randint(vocabulary, (n,), generator=torch.Generator().manual_seed(seed))


def plain(hidden, weight, tokens, temperature=1.0, bias=None):
    return logprobs.log_probs_and_entropy(linear(hidden, weight, bias), tokens, temperature)


@pytest.fixture(params=["kept", "computed again"])
def logits_are(request, monkeypatch):
    """For the backward pass; both ways."""
    monkeypatch.setattr(core, "KEPT_BYTES", 2**40 if request.param == "kept" else 0)
    return request.param


@quick
@given(st.integers(1, 40), st.booleans(), st.booleans(), temperatures, seeds)
def test_tiles_equal_the_whole(tile, has_bias, keep, temperature, seed):
    """In values and gradients, whatever the tile; 13 rows and 11 tokens are a multiple of nothing."""
    shapes = [(13, 4), (11, 4), (11,), (13,), (13,)]
    hidden, weight, bias, of_log_prob, of_entropy = normals(seed, *shapes)
    tokens, results = random_tokens(seed, 13, 11), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core, "KEPT_BYTES", 2**40 if keep else 0)
        for fused in (False, True):
            h, w, b = with_grad(2 * hidden, weight, bias)
            given_bias = b if has_bias else None
            if fused:
                out = core.log_probs_and_entropy_from_hidden(h, w, tokens, temperature, given_bias, tile)
                same_bits(core.log_probs_from_hidden(h, w, tokens, temperature, given_bias, tile), out[0])
            else:
                out = plain(h, w, tokens, temperature, given_bias)
            (out[0] * of_log_prob + out[1] * of_entropy).sum().backward()
            results.append((*(x.detach() for x in out), h.grad, w.grad, b.grad if has_bias else torch.zeros(1)))
    for whole, tiled in zip(*results, strict=True):
        close(tiled, whole)


@quick
@given(seeds, temperatures)
def test_values_and_gradients_are_those_of_the_loops(seed, temperature):
    """With the identity for a head, hidden states are logits, and their gradients those of the oracle."""
    (logits,), tokens = normals(seed, (3, 7)), random_tokens(seed, 3, 7)
    rows = list(zip((4 * logits).tolist(), tokens.tolist(), strict=True))
    values = [(oracle.log_prob(z, t, temperature), oracle.entropy(z, temperature)) for z, t in rows]
    slopes = [(oracle.log_prob_gradient(z, t, temperature), oracle.entropy_gradient(z, temperature)) for z, t in rows]
    for which in (0, 1):
        (live,) = with_grad(4 * logits)
        out = core.log_probs_and_entropy_from_hidden(live, torch.eye(7).double(), tokens, temperature, tile=6)
        close(out[which], [value[which] for value in values])
        out[which].sum().backward()
        close(live.grad, [slope[which] for slope in slopes])


def test_gradients_by_differences(logits_are):
    hidden, weight, bias = with_grad(*normals(3, (5, 3), (7, 3), (7,)))
    tokens = torch.tensor([0, 6, 2, 2, 5])

    def of(h, w, b):
        return core.log_probs_and_entropy_from_hidden(h, w, tokens, 0.7, b, 8)

    assert torch.autograd.gradcheck(of, (hidden, weight, bias))


def test_both_ways_of_the_backward_pass_are_the_same_to_the_bit(monkeypatch):
    hidden, weight = (x.float() for x in normals(4, (50, 16), (301, 16)))
    gradients = []
    for size in (0, 2**40):
        monkeypatch.setattr(core, "KEPT_BYTES", size)
        h, w = with_grad(hidden, weight)
        log_probs, entropy = core.log_probs_and_entropy_from_hidden(h, w, random_tokens(4, 50, 301), 0.9, tile=1000)
        (log_probs.sum() + entropy.square().sum()).backward()
        gradients.append((h.grad, w.grad))
    for again, kept in zip(*gradients, strict=True):
        assert torch.equal(again, kept)


def test_a_graph_may_be_used_twice(logits_are):
    hidden, weight = with_grad(*normals(4, (5, 4), (9, 4)))
    log_probs = core.log_probs_from_hidden(hidden, weight, random_tokens(4, 5, 9), tile=7)
    first = torch.autograd.grad(log_probs.sum(), hidden, retain_graph=True)[0]
    close(torch.autograd.grad(log_probs.sum(), hidden)[0], first)


def test_only_what_is_asked_for_gets_a_gradient(logits_are):
    hidden, weight, bias = normals(3, (10, 4), (6, 4), (6,))
    tokens = random_tokens(3, 10, 6)
    whole = plain(hidden, weight, tokens)[0]
    with torch.no_grad():
        result = core.log_probs_from_hidden(hidden, weight, tokens, tile=3)
    close(result, whole)
    assert not result.requires_grad
    for asked in ((True, False, False), (False, True, False), (False, False, True)):
        given_ = [x.clone().requires_grad_(wanted) for x, wanted in zip((hidden, weight, bias), asked, strict=True)]
        core.log_probs_from_hidden(given_[0], given_[1], tokens, 1.0, given_[2], 3).sum().backward()
        assert [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in given_] == list(asked)


def test_an_entropy_that_nobody_asks_for_costs_the_backward_pass_nothing(monkeypatch):
    hidden, weight = with_grad(*normals(3, (10, 4), (6, 4)))
    seen = []
    real = core._slope
    monkeypatch.setattr(core, "_slope", lambda log_p, g, e, h: seen.append(e) or real(log_p, g, e, h))
    log_probs, entropy = core.log_probs_and_entropy_from_hidden(hidden, weight, random_tokens(3, 10, 6))
    (log_probs.sum() + entropy.detach().sum()).backward()
    assert seen == [None]


def test_no_tokens(logits_are):
    hidden, weight = with_grad(torch.zeros(0, 4), torch.zeros(6, 4))
    log_probs, entropy = core.log_probs_and_entropy_from_hidden(hidden, weight, torch.zeros(0, dtype=torch.long))
    (log_probs.sum() + entropy.sum()).backward()
    assert log_probs.shape == entropy.shape == (0,)
    assert not weight.grad.any()


def test_a_token_that_is_none_is_not_passed_over(logits_are):
    for token in (6, -1):
        result = core.log_probs_from_hidden(torch.ones(1, 4), torch.ones(6, 4), torch.tensor([token]))
        assert result.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_logits(dtype, logits_are):
    """The bias makes the logits; tiles of one column, so that the running maximum jumps."""
    rows = [[1e4, 0, -1e4], [0, -math.inf, -math.inf], [-math.inf, 0, 0], [-88.8, 88.8, 0], [1e30, 1e30, -1e30]]
    for logits, expected in zip(rows, [0, 0, math.log(2), 0, math.log(2)], strict=True):
        hidden = torch.zeros(1, 2, dtype=dtype, requires_grad=True)
        weight = torch.ones(3, 2, dtype=dtype)
        token = torch.tensor([logits.index(max(logits))])
        bias = torch.tensor(logits, dtype=dtype)
        log_probs, entropy = core.log_probs_and_entropy_from_hidden(hidden, weight, token, 1.0, bias, 1)
        close(entropy, [expected], rtol=1e-6)
        close(log_probs, [-expected], rtol=1e-6)
        assert entropy >= 0
        (log_probs + entropy).sum().backward()
        assert hidden.grad.isfinite().all()


@pytest.mark.parametrize("tile", [30, None])
def test_autocast_takes_the_product_to_bfloat16_and_nothing_else(tile, logits_are):
    hidden, weight = (x.float() for x in normals(4, (10, 16), (50, 16)))
    tokens = random_tokens(4, 10, 50)
    logits = linear(hidden.bfloat16(), weight.bfloat16()).float()
    (h, w), (h2, w2) = with_grad(hidden, weight), with_grad(hidden, weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        log_probs, entropy = core.log_probs_and_entropy_from_hidden(h, w, tokens, 0.7, tile=tile)
        whole = plain(h2, w2, tokens, 0.7)
    assert log_probs.dtype == entropy.dtype == torch.float32
    close(log_probs, logprobs.log_probs(logits, tokens, 0.7), rtol=1e-6, atol=1e-6)
    close(entropy, logprobs.entropy(logits, 0.7), rtol=1e-6, atol=1e-6)
    (log_probs.sum() + entropy.sum()).backward()
    (whole[0].sum() + whole[1].sum()).backward()
    for found, expected in ((h.grad, h2.grad), (w.grad, w2.grad)):
        assert found.dtype == torch.float32
        # bfloat16 has 8 bits, and the slopes of the logits pass through it on both ways
        assert float((found - expected).abs().max() / expected.abs().max()) < 0.01


def test_half_precision_weights(logits_are):
    hidden, weight = with_grad(*(x.bfloat16() for x in normals(4, (10, 16), (50, 16))))
    tokens = random_tokens(4, 10, 50)
    log_probs = core.log_probs_from_hidden(hidden, weight, tokens, tile=40)
    assert log_probs.dtype == torch.float32
    close(log_probs, plain(hidden, weight, tokens)[0].detach(), rtol=1e-6, atol=1e-6)
    log_probs.sum().backward()
    assert hidden.grad.dtype == weight.grad.dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"hidden is torch.float32 and weight torch.bfloat16"):
        core.log_probs_from_hidden(hidden.float(), weight, tokens)


def peak_bytes(run):
    """The most bytes that `run` held above what was held before it."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    changes = [e.nbytes() for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for change in changes:
        held += change
        peak = max(peak, held)
    return peak


def test_the_logits_are_never_all_there(monkeypatch):
    N, V, H = 256, 2000, 8
    monkeypatch.setattr(core, "KEPT_BYTES", 0)
    hidden, weight = with_grad(*(x.float() for x in normals(5, (N, H), (V, H))))
    tokens = random_tokens(5, N, V)
    all_logits = N * V * 4  # bytes

    def both(log_probs, entropy):
        (log_probs + entropy).sum().backward()

    whole = peak_bytes(lambda: both(*plain(hidden, weight, tokens)))
    tiles = peak_bytes(lambda: both(*core.log_probs_and_entropy_from_hidden(hidden, weight, tokens, tile=2**12)))
    assert whole > 2 * all_logits  # the measure sees what it should
    assert tiles < all_logits / 8


@quick
@given(st.integers(1, 9), seeds)
def test_groups_of_rows_equal_the_whole(rows, seed):
    """Any function of rows, of one result or of two; gradients of what it closes over too."""
    hidden, weight = normals(seed, (7, 4), (5, 4))
    tokens, results = random_tokens(seed, 7, 5), []
    for group in (rows, 100):
        h, w = with_grad(hidden, weight)
        log_probs, entropy = core.by_rows(lambda x, t, w=w: plain(x, w, t, 0.8), h, tokens, rows=group)
        alone = core.by_rows(lambda x, t, w=w: plain(x, w, t, 0.8)[0], h, tokens, rows=group)
        (log_probs.square() + entropy + alone).sum().backward()
        results.append((log_probs.detach(), entropy.detach(), alone.detach(), h.grad, w.grad))
    for grouped, whole in zip(*results, strict=True):
        close(grouped, whole)


def test_rows_at_once_hold_one_row_at_least():
    assert core.rows_at_once(50_000, torch.device("cpu")) > 100
    assert core.rows_at_once(10**9, torch.device("cpu")) == 1


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan])
def test_temperatures_must_be_positive(temperature):
    with pytest.raises(ValueError, match=r"temperature = .*above 0"):
        core.log_probs_from_hidden(torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2).long(), temperature)


def test_tiles_and_groups_must_hold_something():
    with pytest.raises(ValueError, match="tile = 0"):
        core.log_probs_from_hidden(torch.zeros(2, 3), torch.zeros(5, 3), torch.zeros(2).long(), tile=0)
    with pytest.raises(ValueError, match="rows = 0"):
        core.by_rows(torch.exp, torch.zeros(2), rows=0)
