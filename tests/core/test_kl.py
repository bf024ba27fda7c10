import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from clearppo.core import kl as core
from clearppo.core import logprobs
from tests.core.cases import close, normals, quick, seeds, with_grad
from tests.oracles import kl as oracle

estimators = st.sampled_from(["k1", "k2", "k3"])


@quick
@given(seeds, estimators, st.sampled_from([1e-3, 1.0, 5.0]))
def test_estimators_are_those_of_the_loops(seed, estimator, spread):
    log_probs, ref_log_probs = (spread * x for x in normals(seed, (3, 4), (3, 4)))
    expected = [
        [oracle.estimate(p, q, estimator) for p, q in zip(*rows, strict=True)]
        for rows in zip(log_probs.tolist(), ref_log_probs.tolist(), strict=True)
    ]
    close(core.kl(log_probs, ref_log_probs, estimator), expected)


def test_signs():
    """The policy likes the token more than the reference does: k1 is positive, and its reward, (1), negative."""
    assert core.kl(torch.tensor([[-1.0]]), torch.tensor([[-2.0]])).item() == 1.0


@quick
@given(st.floats(-20, 20), st.floats(-1e-8, 1e-8))
def test_k2_and_k3_are_never_negative(base, difference):
    log_probs, ref_log_probs = torch.tensor([[base + difference, base]]).double(), torch.tensor([[base, 0.0]]).double()
    for estimator in ("k2", "k3"):
        assert (core.kl(log_probs, ref_log_probs, estimator) >= 0).all()
        assert (core.kl(log_probs.float(), ref_log_probs.float(), estimator) >= 0).all()


def test_k3_keeps_its_digits_near_0():
    close(core.kl(torch.tensor([[1e-6]]).double(), torch.zeros(1, 1).double(), "k3"), [[5e-13]], rtol=1e-6, atol=0)


@quick
@given(seeds, st.sampled_from([1.0, 0.7]))
def test_k1_and_k3_expect_the_full_kl(seed, temperature):
    logits, ref_logits = (2 * x for x in normals(seed, (1, 1, 6), (1, 1, 6)))
    everything = torch.arange(6).unsqueeze(0)  # one "position" for each token of the vocabulary
    log_p = logprobs.log_probs(logits.expand(1, 6, 6), everything, temperature)
    log_q = logprobs.log_probs(ref_logits.expand(1, 6, 6), everything, temperature)
    full = core.full_kl(logits, ref_logits, temperature)
    close(full, [[oracle.full(logits[0, 0].tolist(), ref_logits[0, 0].tolist(), temperature)]])
    for estimator in ("k1", "k3"):
        close((log_p.exp() * core.kl(log_p, log_q, estimator)).sum(), full.squeeze())


def test_full_kl_of_forbidden_tokens():
    none = -math.inf
    logits = torch.tensor([[[0.0, 1.0, none], [0.0, none, none], [0.0, 1.0, 2.0]]], dtype=torch.float64)
    ref = torch.tensor([[[0.0, 1.0, none], [0.0, 0.0, none], [0.0, 1.0, none]]], dtype=torch.float64)
    close(core.full_kl(logits, ref), [[0.0, math.log(2), math.inf]])
    (live,) = with_grad(logits[:, :2])
    core.full_kl(live, ref[:, :2]).sum().backward()
    assert live.grad.isfinite().all()


def test_half_precision_is_widened():
    x = torch.zeros(1, 2, 3, dtype=torch.bfloat16)
    assert core.full_kl(x, x).dtype == torch.float32
    assert core.kl(x[0], x[0]).dtype == torch.float32


def test_unknown_estimators_are_refused():
    with pytest.raises((ValueError, TypeCheckError), match="k4"):
        core.kl(torch.zeros(1, 1), torch.zeros(1, 1), "k4")


def test_adaptive_coefficient_by_hand():
    start = core.AdaptiveKL(value=0.15, target=6, horizon=10000)
    assert start.updated(kl=6.0, n_steps=512).value == 0.15
    assert start.updated(kl=6.6, n_steps=512).value == pytest.approx(0.15 * (1 + 0.1 * 0.0512), rel=1e-12)
    assert start.updated(kl=100.0, n_steps=512).value == pytest.approx(0.15 * 1.01024, rel=1e-12)
    assert start.updated(kl=-3.0, n_steps=512).value == pytest.approx(0.15 * 0.98976, rel=1e-12)
    assert start.updated(kl=math.inf, n_steps=512).value == pytest.approx(0.15 * 1.01024, rel=1e-12)
    assert start == core.AdaptiveKL(0.15, 6, 10000)


@quick
@given(st.lists(st.tuples(st.floats(-5, 50), st.integers(0, 4000)), max_size=10))
def test_adaptive_coefficient_over_a_run(history):
    controller, value = core.AdaptiveKL(0.2, 6.0, 10000), 0.2
    for kl, n_steps in history:
        controller, value = controller.updated(kl, n_steps), oracle.adapted(value, 6.0, 10000, kl, n_steps)
        assert controller.value == pytest.approx(value, rel=1e-12)
        assert controller.value > 0


def test_fixed_coefficient_stays():
    fixed = core.FixedKL(0.05)
    assert fixed.updated(kl=100.0, n_steps=512) is fixed
    assert fixed.value == 0.05


def test_coefficients_are_frozen():
    for coefficient in (core.FixedKL(0.1), core.AdaptiveKL(0.1, 6, 10000)):
        with pytest.raises(FrozenInstanceError):
            coefficient.value = 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: core.FixedKL(-0.1), "value = -0.1"),
        (lambda: core.FixedKL(math.nan), "value = nan"),
        (lambda: core.AdaptiveKL(-0.1, 6, 10000), "value = -0.1"),
        (lambda: core.AdaptiveKL(0.1, 0, 10000), "target = 0"),
        (lambda: core.AdaptiveKL(0.1, 6, 0), "horizon = 0"),
        (lambda: core.AdaptiveKL(0.1, 6, 10000).updated(math.nan, 512), "kl = nan"),
        (lambda: core.AdaptiveKL(0.1, 6, 10000).updated(6.0, 50000), "below 50000 sequences"),
        (lambda: core.AdaptiveKL(0.1, 6, 10000).updated(6.0, -1), "n_steps = -1"),
    ],
)
def test_bad_coefficients_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
