"""How far the policy is from the reference, and what a nat of it costs.

Estimators after J. Schulman, "Approximating KL divergence" (joschu.net/blog/kl-approx); the adaptive coefficient after
Ziegler et al. 2019 (lm-human-preferences train_policy.py:115-124).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.core.logprobs import log_softmax
from clearppo.core.masks import widen

Estimator = Literal["k1", "k2", "k3"]

MAX_ERROR = 0.2  # an adaptive coefficient answers a KL of ten times the target no faster than one of 1.2 times


def kl(
    log_probs: Float[Tensor, "B T"], ref_log_probs: Float[Tensor, "B T"], estimator: Estimator = "k1"
) -> Float[Tensor, "B T"]:
    """One-sample estimate of KL(policy || reference) at each token, in nats. With d = log_probs - ref_log_probs:

        k1 = d                  unbiased, may be negative; (1) is -k1
        k2 = d^2 / 2            biased, never negative
        k3 = exp(-d) - 1 + d    unbiased, never negative; explodes where the policy is far below the reference

    Unbiased means for tokens sampled from the policy itself, at the temperature of the log-probabilities.
    It knows no mask: callers select (`rewards` does).

    Raises ValueError for another estimator.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(f"estimator = {estimator!r}; it must be 'k1', 'k2' or 'k3'. Use 'k1' for equation (1).")
    d = widen(log_probs) - widen(ref_log_probs)
    match estimator:
        case "k1":
            return d
        case "k2":
            return d.square() / 2
        case "k3":
            # expm1 keeps the digits that exp(-d) - 1 loses near d = 0, where k3 is about d^2 / 2. The clamp removes
            # only what rounding may leave below 0.
            return (torch.expm1(-d) + d).clamp(min=0.0)


def full_kl(
    logits: Float[Tensor, "*shape V"], ref_logits: Float[Tensor, "*shape V"], temperature: float | int = 1.0
) -> Float[Tensor, "*shape"]:
    """KL(policy || reference) over the whole vocabulary, sum_v p_v (log p_v - log q_v), in nats.

    The expectation of k1 and k3 ("the full KL is possible too", below (1)). The temperature divides both logits.
    Tokens that the policy cannot produce add nothing; a token that only the reference forbids makes it infinite.

    Raises ValueError if `temperature` is not positive.
    """
    log_p, log_q = log_softmax(logits, temperature), log_softmax(ref_logits, temperature)
    p = log_p.exp()
    possible = p > 0  # elsewhere 0 * (-inf - -inf) would be NaN, in the value and in the gradient
    return (p * (torch.where(possible, log_p, 0.0) - torch.where(possible, log_q, 0.0))).sum(dim=-1)


@dataclass(frozen=True)
class FixedKL:
    """A KL coefficient that stays. `value` multiplies the KL in the reward.

    Raises ValueError if `value` is negative or not finite.
    """

    value: float | int

    def __post_init__(self) -> None:
        _check_value(self.value)

    def updated(self, kl: float | int, n_steps: int) -> "FixedKL":
        """Itself, whatever was measured."""
        return self

    def state(self) -> dict[str, float | int]:
        """Nothing: all that it is was said when it was made."""
        return {}

    def restored(self, state: Mapping[str, float | int]) -> "FixedKL":
        """Itself, whatever the state."""
        return self


@dataclass(frozen=True)
class AdaptiveKL:
    """A KL coefficient that steers the KL of a whole response towards `target` nats.

        error = clip(kl / target - 1, -0.2, 0.2)
        value <- value * (1 + error * n_steps / horizon)

    Source: lm-human-preferences train_policy.py:115-124. `horizon` is in the unit of `n_steps`: sequences.

    Raises ValueError if `value` is negative, or `target` or `horizon` not positive.
    """

    value: float | int
    target: float | int
    horizon: float | int

    def __post_init__(self) -> None:
        _check_value(self.value)
        if not self.target > 0:
            raise ValueError(f"target = {self.target} nats; it must be above 0. Use 6 (nats a response).")
        if not self.horizon > 0:
            raise ValueError(f"horizon = {self.horizon} sequences; it must be above 0. Use 10000.")

    def updated(self, kl: float | int, n_steps: int) -> "AdaptiveKL":
        """The controller for the next batch, after one of `n_steps` sequences with mean KL `kl` (nats a sequence).

        Raises ValueError if `kl` is NaN, which a clip would turn into an ordinary error of +-0.2, or if `n_steps` is
        negative or so large against `horizon` that one update could turn the coefficient negative.
        """
        if math.isnan(kl):
            raise ValueError("kl = nan; it must be a number. Look for NaN log-probabilities in the batch.")
        if not 0 <= n_steps * MAX_ERROR < self.horizon:
            raise ValueError(
                f"n_steps = {n_steps} does not suit horizon = {self.horizon}; it must be 0 or more and below "
                f"{self.horizon / MAX_ERROR:g} sequences. Use a longer horizon."
            )
        error = min(max(kl / self.target - 1, -MAX_ERROR), MAX_ERROR)
        return replace(self, value=self.value * (1 + error * n_steps / self.horizon))

    def state(self) -> dict[str, float | int]:
        """Where it has come to: what `restored` needs to go on from there."""
        return {"value": self.value}

    def restored(self, state: Mapping[str, float | int]) -> "AdaptiveKL":
        """This controller with the `value` of a state; as it is if the state has none (a fixed coefficient's)."""
        return replace(self, value=state.get("value", self.value))


def _check_value(value: float | int) -> None:
    if not 0 <= value < math.inf:
        raise ValueError(f"value = {value}; a KL coefficient must be 0 or more and finite. Use 0.05.")
