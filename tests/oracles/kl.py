"""KL estimators of one token, the full KL of one position, and the adaptive coefficient."""

import math

from tests.oracles.logprobs import log_softmax


def estimate(log_prob, ref_log_prob, estimator):
    d = log_prob - ref_log_prob
    if estimator == "k1":
        return d
    if estimator == "k2":
        return 0.5 * d * d
    if estimator == "k3":
        return math.exp(ref_log_prob - log_prob) - 1 + d
    raise AssertionError(estimator)


def full(logits, ref_logits, temperature=1.0):
    p, q = log_softmax(logits, temperature), log_softmax(ref_logits, temperature)
    return math.fsum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))


def adapted(value, target, horizon, kl, n_steps):
    error = kl / target - 1
    if error > 0.2:
        error = 0.2
    if error < -0.2:
        error = -0.2
    return value + value * error * n_steps / horizon
