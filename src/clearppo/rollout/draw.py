"""Drawing one token a row from logits: temperature, then top-k, then top-p, then the inverse of the cumulative sum.

One random number a row is enough: torch.multinomial draws one a vocabulary entry, which costs 20 times more.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearppo.errors import TrainingError

PREFILTER = 1024


def draw(
    logits: Float[Tensor, "B V"],
    uniform: Float[Tensor, " B"],
    *,
    temperature: float,
    top_k: int = 0,
    top_p: float = 1.0,
) -> tuple[Int[Tensor, " B"], Float[Tensor, " B"], Float[Tensor, " B"]]:
    """Tokens, their log-prob under the distribution drawn from, and their log-prob over the whole vocabulary (nats).

    `uniform` is in [0, 1): the token is the first whose cumulative probability exceeds it. `temperature = 0` takes the
    most probable token; then both log-probs are those at temperature 1. Ties at the k-th place are all kept.

    Raises TrainingError if the probabilities of a row are not finite.
    """
    if temperature == 0:
        tokens = logits.argmax(dim=-1)
        chosen = logits.log_softmax(dim=-1).gather(1, tokens[:, None]).squeeze(1)
        return tokens, chosen, chosen
    log_probs = (logits / temperature).log_softmax(dim=-1)
    kept = log_probs
    if 0 < top_k < logits.shape[-1]:
        kth = kept.topk(top_k, dim=-1).values[:, -1:]
        kept = kept.masked_fill(kept < kth, float("-inf"))
    if top_p < 1.0:
        kept = _keep_top_p(kept, top_p)
    cumulative = kept.exp().cumsum(dim=-1)
    total = cumulative[:, -1:]
    if not bool(total.isfinite().all()):
        raise TrainingError(
            "the policy's probabilities are no numbers any more (NaN): its weights have diverged, or the model is "
            "broken. Use a smaller --learning_rate, or --dtype float32 --bf16 false."
        )
    # Rounding may lift uniform * total to total itself, behind which no token lies.
    threshold = torch.minimum(uniform[:, None].to(total.dtype) * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cumulative, threshold, right=True)
    policy_log_probs = log_probs.gather(1, tokens).squeeze(1)
    if kept is log_probs:
        return tokens.squeeze(1), policy_log_probs, policy_log_probs
    drawn = policy_log_probs - kept.logsumexp(dim=-1)
    return tokens.squeeze(1), drawn, policy_log_probs


def _keep_top_p(log_probs: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B V"]:
    """The smallest set of most probable tokens whose share of what is left reaches top_p; the rest become -inf."""
    log_probs = log_probs.log_softmax(dim=-1)
    width = min(PREFILTER, log_probs.shape[-1])
    best = log_probs.topk(width, dim=-1).values
    if width < log_probs.shape[-1] and bool((best.exp().sum(dim=-1) < top_p).any()):
        best = log_probs.sort(dim=-1, descending=True).values  # a flat distribution: the prefilter did not reach
    before = best.exp().cumsum(dim=-1) - best.exp()
    # A token is kept if what stands before it has not reached top_p yet; the first always is.
    last = (before < top_p).sum(dim=-1, keepdim=True).clamp(min=1) - 1
    return log_probs.masked_fill(log_probs < best.gather(1, last), float("-inf"))
