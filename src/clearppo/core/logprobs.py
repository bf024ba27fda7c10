"""Log-probabilities of the sampled tokens and entropy of the policy, from logits or, in chunks, from hidden states.

The temperature divides all logits before the log-softmax, for the policy, the old policy and the reference alike: what
is trained is the distribution that was sampled from (lm-human-preferences policy.py:119-125).

Response token j of a prompt of P tokens is predicted by position P - 1 + j of the model: callers hand in the slice
`[:, P - 1 : -1]` of logits, hidden states and values together with the response tokens.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]  (no types in torch)

from clearppo.core.masks import widen


def log_probs(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], temperature: float | int = 1.0
) -> Float[Tensor, "B T"]:
    """log p(tokens[b, t] | context) = log_softmax(logits / temperature)[tokens[b, t]], in nats.

    Used for the log-probabilities of (1) and (7). Tokens outside the caller's mask must still be legal ids (0 is).

    Raises ValueError if `temperature` is not positive.
    """
    return _pick(log_softmax(logits, temperature), tokens)


def entropy(logits: Float[Tensor, "B T V"], temperature: float | int = 1.0) -> Float[Tensor, "B T"]:
    """-sum_v p_v log p_v of softmax(logits / temperature), in nats: 0 (certain) to log V (uniform).

    The exact entropy of the next token (lm-human-preferences core.py:290-292), not the sampled -log p(token).
    Logits of -infinity (forbidden tokens) are legal and add nothing.

    Raises ValueError if `temperature` is not positive.
    """
    return _entropy(log_softmax(logits, temperature))


def log_probs_and_entropy(
    logits: Float[Tensor, "B T V"], tokens: Int[Tensor, "B T"], temperature: float | int = 1.0
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """(`log_probs`, `entropy`) from one log-softmax: half the work and memory of the two calls.

    Raises ValueError if `temperature` is not positive.
    """
    log_p = log_softmax(logits, temperature)
    return _pick(log_p, tokens), _entropy(log_p)


def log_probs_from_hidden(
    hidden: Float[Tensor, "B T H"],
    weight: Float[Tensor, "V H"],
    tokens: Int[Tensor, "B T"],
    temperature: float | int = 1.0,
    chunk_size: int = 1024,
    bias: Float[Tensor, " V"] | None = None,
) -> Float[Tensor, "B T"]:
    """`log_probs(hidden @ weight.T + bias, tokens, temperature)` without ever holding the [B, T, V] logits.

    The B * T positions are walked in chunks of `chunk_size` positions; the backward pass computes each chunk's logits
    again instead of keeping them. So only a few [chunk_size, V] tensors are alive at a time, forward or backward, at
    the price of one more product with the head. Chunks only group rows of a row-wise computation: values and gradients
    are those of the whole, up to the rounding of the matrix product.

    The product runs in the precision of its inputs, or of autocast; the log-softmax in float32 at least.

    Raises ValueError if `temperature` or `chunk_size` is not positive.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size = {chunk_size} positions; it must be 1 or more. Use 1024.")
    hiddens, labels = torch.split(hidden.flatten(0, 1), chunk_size), torch.split(tokens.flatten(), chunk_size)
    picked: list[Tensor] = [
        # Nothing random happens inside, so there is no generator state to save.
        checkpoint(_chunk, h, weight, bias, t, temperature, use_reentrant=False, preserve_rng_state=False)
        for h, t in zip(hiddens, labels, strict=True)
    ]
    return torch.cat(picked).view(tokens.shape)


def log_softmax(logits: Float[Tensor, "*shape V"], temperature: float | int = 1.0) -> Float[Tensor, "*shape V"]:
    """log_softmax(logits / temperature) over the vocabulary, in float32 at least, under autocast too.

    Raises ValueError if `temperature` is not positive (greedy sampling has no log-probabilities to train on).
    """
    if not temperature > 0:
        raise ValueError(f"temperature = {temperature}; it must be above 0. Use 1.0 for the model's own distribution.")
    # Widen first: half-precision logits divided in half precision would be rounded twice. A division by 1 would change
    # nothing and cost one more [B, T, V] tensor.
    scaled = widen(logits) if temperature == 1 else widen(logits) / temperature
    # Not z - logsumexp(z): torch subtracts the maximum first, which keeps all digits of the differences even at 1e10.
    return torch.log_softmax(scaled, dim=-1)


def _pick(log_p: Float[Tensor, "*shape V"], tokens: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return log_p.gather(-1, tokens.long().unsqueeze(-1)).squeeze(-1)


def _entropy(log_p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape"]:
    p = log_p.exp()
    # p log p -> 0 as p -> 0, but 0 * -inf is NaN, in the value and in the gradient: leave those cells out beforehand.
    # Every log p is <= 0, so the sum of the products p * -log p cannot fall below 0 by rounding.
    return (p * -torch.where(p > 0, log_p, 0.0)).sum(dim=-1)


def _chunk(
    hidden: Float[Tensor, "C H"],
    weight: Float[Tensor, "V H"],
    bias: Float[Tensor, " V"] | None,
    tokens: Int[Tensor, " C"],
    temperature: float | int,
) -> Float[Tensor, " C"]:
    return _pick(log_softmax(torch.nn.functional.linear(hidden, weight, bias), temperature), tokens)
