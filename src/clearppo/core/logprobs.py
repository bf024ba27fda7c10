"""Log-probabilities of the sampled tokens and entropy of the policy, from logits. From hidden states: core/head.py.

The temperature divides all logits before the log-softmax, for the policy, the old policy and the reference alike: what
is trained is the distribution that was sampled from (lm-human-preferences policy.py:119-125).

Response token j of a prompt of P tokens is predicted by position P - 1 + j of the model: callers hand in the logits of
that position together with the response token.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearppo.core.masks import widen


def log_probs(
    logits: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"], temperature: float | int = 1.0
) -> Float[Tensor, "*shape"]:
    """log p(token | context) = log_softmax(logits / temperature)[token], in nats.

    Used for the log-probabilities of (1) and (7). Tokens outside the caller's mask must still be legal ids (0 is).

    Raises ValueError if `temperature` is not positive.
    """
    return _pick(log_softmax(logits, temperature), tokens)


def entropy(logits: Float[Tensor, "*shape V"], temperature: float | int = 1.0) -> Float[Tensor, "*shape"]:
    """-sum_v p_v log p_v of softmax(logits / temperature), in nats: 0 (certain) to log V (uniform).

    The exact entropy of the next token (lm-human-preferences core.py:290-292), not the sampled -log p(token).
    Logits of -infinity (forbidden tokens) are legal and add nothing.

    Raises ValueError if `temperature` is not positive.
    """
    return _entropy(log_softmax(logits, temperature))


def log_probs_and_entropy(
    logits: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"], temperature: float | int = 1.0
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """(`log_probs`, `entropy`) from one log-softmax: half the work and memory of the two calls.

    Raises ValueError if `temperature` is not positive.
    """
    log_p = log_softmax(logits, temperature)
    return _pick(log_p, tokens), _entropy(log_p)


def log_softmax(logits: Float[Tensor, "*shape V"], temperature: float | int = 1.0) -> Float[Tensor, "*shape V"]:
    """log_softmax(logits / temperature) over the vocabulary, in float32 at least, under autocast too.

    Raises ValueError if `temperature` is not positive (greedy sampling has no log-probabilities to train on).
    """
    require_positive(temperature)
    # Widen first: half-precision logits divided in half precision would be rounded twice. A division by 1 would change
    # nothing and cost one more [B, T, V] tensor.
    scaled = widen(logits) if temperature == 1 else widen(logits) / temperature
    # Not z - logsumexp(z): torch subtracts the maximum first, which keeps all digits of the differences even at 1e10.
    return torch.log_softmax(scaled, dim=-1)


def require_positive(temperature: float | int) -> None:
    """Raises ValueError if `temperature` is not positive."""
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}; it must be above 0. Use 1.0 for the model's own distribution.")


def _pick(log_p: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return log_p.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def _entropy(log_p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    p = log_p.exp()
    # p log p -> 0 as p -> 0, but 0 * -inf is NaN, in the value and in the gradient: leave those cells out beforehand.
    # Every log p is <= 0, so the sum of the products p * -log p cannot fall below 0 by rounding.
    return (p * -torch.where(p > 0, log_p, 0.0)).sum(dim=-1)
