"""Drawing one token a row from logits: temperature, then top-k, then top-p, then the inverse of the cumulative sum.

One random number a row is enough: torch.multinomial draws one a vocabulary entry, which costs 20 times more. A row's
numbers come from a stream of its own, so that they depend on nothing that happens in other rows.
"""

from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from clearppo.errors import NumbersError

BLOCK = 128
PREFILTER = 512
NOTHING = -1


def row_stream(seed: int, row: int) -> Random:
    """The random numbers of the `row`-th row that a sampler with this seed answers: one in [0, 1) for each token.

    Each stream starts from a hash (SHA-512) of the two numbers, which are therefore all its state.
    """
    return Random(f"{seed}/{row}")


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

    A row whose probabilities are not finite gets the token -1, which `on_host` reports: a check here would make the
    host wait for the device once more.
    """
    probabilities = (logits if temperature in (0, 1) else logits / temperature).softmax(dim=-1)
    if temperature == 0:
        tokens = logits.argmax(dim=-1, keepdim=True)
        chosen = probabilities.gather(1, tokens).log().squeeze(1)
        return tokens.squeeze(1).masked_fill(~chosen.isfinite(), NOTHING), chosen, chosen
    # In place from here on: fresh tensors of this size cost more than the arithmetic.
    cut = False
    if 0 < top_k < logits.shape[-1]:
        cut = True
        probabilities.masked_fill_(logits < logits.topk(top_k, dim=-1).values[:, -1:], 0.0)
    if top_p < 1.0:
        cut = True
        probabilities.masked_fill_(probabilities < _last_of_top_p(probabilities, top_p), 0.0)
    tokens, total = _inverse(probabilities, uniform)
    own = probabilities.gather(1, tokens).log().squeeze(1)
    drawn = own - total.log().squeeze(1) if cut else own  # all probabilities together are 1 but for rounding
    return tokens.masked_fill(~total.isfinite(), NOTHING).squeeze(1), drawn, own


def on_host(tokens: Int[Tensor, " B"]) -> list[int]:
    """The tokens as numbers, in one transfer. Raises NumbersError if a row had no probabilities to draw from."""
    numbers = tokens.tolist()
    if NOTHING in numbers:
        raise NumbersError(
            "the policy's probabilities are no numbers any more (NaN): its weights have diverged, or the model is "
            "broken. Use a smaller --learning_rate, or --dtype float32 --bf16 false."
        )
    return numbers


def _inverse(
    weights: Float[Tensor, "B V"], uniform: Float[Tensor, " B"]
) -> tuple[Int[Tensor, "B 1"], Float[Tensor, "B 1"]]:
    """The first token of each row at which the running sum exceeds uniform x total, and the total.

    The sum runs over blocks of tokens first, then within the block that was hit: adding up a block is much cheaper than
    writing a running sum over it.
    """
    V = weights.shape[-1]
    whole = V // BLOCK * BLOCK
    sums = weights[:, :whole].unflatten(1, (-1, BLOCK)).sum(dim=-1)
    blocks = _running(torch.cat([sums, weights[:, whole:].sum(dim=-1, keepdim=True)], dim=-1))
    threshold = _below(uniform[:, None].to(blocks.dtype) * blocks[:, -1:], blocks[:, -1:])
    block = torch.searchsorted(blocks, threshold, right=True).clamp(max=blocks.shape[-1] - 1)  # NaN is behind the last
    before = blocks.gather(1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    columns = block * BLOCK + torch.arange(BLOCK, device=weights.device)
    inside = _running(weights.gather(1, columns.clamp(max=V - 1)).masked_fill(columns >= V, 0.0))
    # Within the block the sum is rounded another way, so the rest of the threshold may reach its end.
    place = torch.searchsorted(inside, _below(threshold - before, inside[:, -1:]), right=True)
    tokens = (block * BLOCK + place).clamp(max=V - 1)
    return tokens, blocks[:, -1:].to(weights.dtype)


def _running(weights: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The running sum; in float64 where there is one: a GPU adds in parallel, and a rounded sum could fall."""
    precision = torch.float32 if weights.device.type == "mps" else torch.float64
    if weights.is_cuda and torch.are_deterministic_algorithms_enabled():  # torch has no such cumsum there
        return doubling(weights.to(precision))
    return weights.cumsum(dim=-1, dtype=precision)


def doubling(sums: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The running sum in log2 K additions of whole rows, in an order that never changes (Hillis and Steele 1986)."""
    reach = 1
    while reach < sums.shape[-1]:
        sums = torch.cat([sums[:, :reach], sums[:, reach:] + sums[:, :-reach]], dim=-1)
        reach *= 2
    return sums


def _below(threshold: Float[Tensor, "B 1"], total: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
    """At most the number before `total`: rounding may lift a threshold to it, and no token lies behind."""
    return torch.minimum(threshold, torch.nextafter(total, torch.zeros_like(total)))


def _last_of_top_p(kept: Float[Tensor, "B V"], top_p: float) -> Float[Tensor, "B 1"]:
    """The least probability in the smallest set of most probable tokens whose share reaches top_p."""
    goal, V = top_p * kept.sum(dim=-1, keepdim=True), kept.shape[-1]
    if kept.device.type != "cpu":  # sorting is cheap there, and a look at what a prefilter reached is not
        return _last_before(kept.sort(dim=-1, descending=True).values, goal)
    last, rows, width = torch.empty_like(goal), torch.arange(len(kept)), PREFILTER
    while len(rows):  # peaked rows first; the flatter ones again, with more tokens
        best = kept[rows].topk(min(width, V), dim=-1).values
        last[rows] = _last_before(best, goal[rows])
        rows = rows[best.sum(dim=-1) < goal[rows, 0]] if width < V else rows[:0]
        width *= 16
    return last


def _last_before(descending: Float[Tensor, "B K"], goal: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
    """The token at which the running sum reaches the goal (or the last there is): all before it have not reached it."""
    reached = (_running(descending) < goal).sum(dim=-1, keepdim=True)
    return descending.gather(1, reached.clamp(max=descending.shape[-1] - 1))
