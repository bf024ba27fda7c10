"""The language-model head and what is read from it, from hidden states, without the [N, V] logits.

N rows of hidden states, each the one before a token that counts: masked cells are left out by the caller.

The logits are worked on in tiles of a few rows by a few thousand tokens of the vocabulary, small enough to stay in the
processor's cache. A sum over the vocabulary grows tile by tile, by the running maximum (Milakov & Gimelshein 2018,
"Online normalizer calculation for softmax"); the backward pass knows the sums and so takes each tile by itself, in
closed form. With p = softmax(logits / temperature) and H the entropy of p:

    d log p(token) / d logit_v = (1[v = token] - p_v) / temperature
    d H            / d logit_v = -p_v (log p_v + H) / temperature
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.utils.checkpoint import checkpoint  # pyright: ignore[reportUnknownVariableType]  (no types in torch)

from clearppo.core.logprobs import require_positive
from clearppo.core.masks import widen

TILE = {"cpu": 2**20}  # logits worked on at once: 4 MB of float32, about a processor's cache
TILE_ELSEWHERE = 2**26  # a GPU is busy only with much more at once
# Logits of fewer bytes are kept for the backward pass, in the precision of the product: a third of its work is then
# saved. 128 MB are 1300 tokens of a vocabulary of 50 thousand in bfloat16, whose activations are many times that.
KEPT_BYTES = 2**27
NEVER = -1000.0  # exp(-1000) is exactly 0, also in float64


def log_probs_and_entropy_from_hidden(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    tokens: Int[Tensor, " N"],
    temperature: float | int = 1.0,
    bias: Float[Tensor, " V"] | None = None,
    tile: int | None = None,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """`logprobs.log_probs_and_entropy(hidden @ weight.T + bias, tokens, temperature)`, in nats, tile by tile.

    At most `tile` logits are worked on at once (None: what suits the device); the backward pass computes them again,
    unless all of them are fewer than KEPT_BYTES. Tiles change values and gradients by rounding only. What is not in a
    loss, such as the entropy, costs nothing in the backward pass; a gradient of the gradient is not provided.

    The product runs in the precision of its inputs, or of autocast; all else in float32 at least. The gradient of
    `weight` is summed in float32 at least. A token that is no legal id gives NaN.

    Raises ValueError if `temperature` or `tile` is not positive.
    """
    return _from_hidden(*_checked(hidden, weight, bias, tokens, temperature, tile), True)


def log_probs_from_hidden(
    hidden: Float[Tensor, "N H"],
    weight: Float[Tensor, "V H"],
    tokens: Int[Tensor, " N"],
    temperature: float | int = 1.0,
    bias: Float[Tensor, " V"] | None = None,
    tile: int | None = None,
) -> Float[Tensor, " N"]:
    """The first half of `log_probs_and_entropy_from_hidden`, without the work of the second."""
    return _from_hidden(*_checked(hidden, weight, bias, tokens, temperature, tile), False)[0]


def by_rows(function: Callable[..., Any], *tensors: Tensor, rows: int) -> Any:
    """`function(*tensors)` in groups of at most `rows` rows, joined along the first axis; a tensor or a tuple of them.

    The backward pass computes each group again instead of keeping what is inside. For heads that are no plain linear
    layer, and for comparing whole distributions. `function` must treat each row by itself.

    Raises ValueError if `rows` is not positive.
    """
    if rows < 1:
        raise ValueError(f"rows = {rows}; it must be 1 or more.")
    parts: list[Any] = [
        # Nothing random happens inside, so there is no generator state to save.
        checkpoint(function, *group, use_reentrant=False, preserve_rng_state=False)
        for group in zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)
    ]
    if isinstance(parts[0], tuple):
        return tuple(torch.cat(part) for part in zip(*parts, strict=True))
    return torch.cat(parts)


def rows_at_once(vocabulary: int, device: torch.device) -> int:
    """How many rows of logits `by_rows` may hold: eight of the tiles of this device, one row at least."""
    return max(1, 8 * TILE.get(device.type, TILE_ELSEWHERE) // vocabulary)


class _FromHidden(torch.autograd.Function):
    """(hidden, weight, bias, tokens, temperature, dtype of the product, tile, with entropy) -> log-probs, entropy."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float | int,
        dtype: torch.dtype,
        tile: int,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # None tells the backward pass what nobody asked for
        ctx.temperature, ctx.dtype, ctx.tile = temperature, dtype, tile
        learns = any(ctx.needs_input_grad[:3])
        n_bytes = hidden.shape[0] * weight.shape[0] * dtype.itemsize
        kept: list[Tensor] | None = [] if learns and n_bytes <= KEPT_BYTES else None
        ctx.kept = kept
        top, total, weighted, picked = _statistics(hidden)
        for rows, columns, _, raw in _products(hidden.to(dtype), weight, bias, tile):
            if kept is not None:
                kept.append(raw)
            place, inside = _places(tokens[rows], columns)
            picked[rows] = torch.where(inside, widen(raw.gather(1, place).squeeze(1)), picked[rows])
            before, top[rows] = top[rows].clone(), torch.maximum(top[rows], widen(raw.amax(dim=1)))
            shift = _divided(before - top[rows], temperature).clamp_(min=NEVER)
            shrink = shift.exp()
            z = _scaled(raw, top[rows], temperature, kept is not None)
            if with_entropy:
                e = z.clamp_(min=NEVER).exp()  # 0 * -inf would be NaN
                weighted[rows] = shrink * (weighted[rows] + total[rows] * shift) + z.mul_(e).sum(dim=1)
            else:
                e = z.exp_()
            total[rows] = shrink * total[rows] + e.sum(dim=1)
        log_total = total.log()
        # All terms p * -log p are 0 or more; the rounding of the two logarithms may leave less.
        entropy = (log_total - weighted / total).clamp(min=0.0) if with_entropy else torch.zeros_like(log_total)
        ctx.save_for_backward(hidden, weight, bias, tokens, top, log_total, entropy)
        return _divided(picked - top, temperature) - log_total, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, tokens, top, log_total, entropy = ctx.saved_tensors
        nothing = (None,) * 8
        if slopes[0] is None and slopes[1] is None:
            return nothing
        of_log_prob, of_entropy = (None if s is None else _divided(s, ctx.temperature).unsqueeze(1) for s in slopes)
        learns = ctx.needs_input_grad[:3]
        gradients = [
            torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32)) if asked else None
            for x, asked in zip((hidden, weight, bias), learns, strict=True)
        ]
        cast = hidden.to(ctx.dtype)
        for rows, columns, part, raw in _products(cast, weight, bias, ctx.tile, ctx.kept):
            log_p = _scaled(raw, top[rows], ctx.temperature, True).sub_(log_total[rows].unsqueeze(1))
            g = None if of_log_prob is None else of_log_prob[rows]
            e = None if of_entropy is None else of_entropy[rows]
            slope = _slope(log_p, g, e, entropy[rows].unsqueeze(1))
            if g is not None:
                place, inside = _places(tokens[rows], columns)
                slope.scatter_add_(1, place, torch.where(inside.unsqueeze(1), g, 0.0))
            _add(gradients, slope, cast[rows], part, rows, columns)
        ctx.kept = None
        found = [None if g is None else g.to(x.dtype) for g, x in zip(gradients, (hidden, weight, bias), strict=True)]
        return (*found, *nothing[3:])


_from_hidden: Callable[..., tuple[Tensor, Tensor]]
_from_hidden = _FromHidden.apply  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _checked(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tokens: Tensor, temperature: float | int, tile: int | None
) -> tuple[Any, ...]:
    """The arguments of `_FromHidden`, but its last one."""
    require_positive(temperature)
    if tile is not None and tile < 1:
        raise ValueError(f"tile = {tile} logits; it must be 1 or more. Leave it out for what suits the device.")
    tile = tile or TILE.get(hidden.device.type, TILE_ELSEWHERE)
    # What torch's own linear layer would do; autocast leaves float64 alone.
    mixed = torch.is_autocast_enabled(hidden.device.type) and hidden.dtype != torch.float64
    dtype = torch.get_autocast_dtype(hidden.device.type) if mixed else hidden.dtype
    if not mixed and weight.dtype != dtype:
        raise ValueError(
            f"hidden is {hidden.dtype} and weight {weight.dtype}; they must agree, but for autocast. Convert one."
        )
    return hidden, weight, bias, tokens.long(), temperature, dtype, tile


def _products(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, tile: int, kept: list[Tensor] | None = None
) -> Iterator[tuple[slice, slice, Tensor, Tensor]]:
    """(rows, columns, weight of the columns, logits before the temperature) over all tiles, in the precision of
    `hidden`. `kept` holds the logits if there was such a walk before."""
    n_rows, n_columns, again = hidden.shape[0], weight.shape[0], iter(kept or ())
    height = max(1, min(n_rows, math.isqrt(tile)))
    width = max(1, min(n_columns, tile // height))
    for left in range(0, n_columns, width):
        columns = slice(left, min(left + width, n_columns))
        part = weight[columns].to(hidden.dtype)
        shift = None if bias is None else bias[columns].to(hidden.dtype)
        for first in range(0, n_rows, height):
            rows = slice(first, min(first + height, n_rows))
            with torch.autocast(hidden.device.type, enabled=False):
                raw = functional.linear(hidden[rows], part, shift) if kept is None else next(again)
            yield rows, columns, part, raw


def _statistics(hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each row, over no tile yet: the maximum, sum e, sum e * z, and the token's logit (NaN until it is seen)."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    n, device = hidden.shape[0], hidden.device
    start = (torch.finfo(dtype).min, 0.0, 0.0, math.nan)
    top, total, weighted, picked = (torch.full((n,), value, dtype=dtype, device=device) for value in start)
    return top, total, weighted, picked


def _places(tokens: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
    """The column of each row's token in a tile, [R, 1], and whether it is there at all (else the column is any)."""
    place = tokens - columns.start
    inside = (place >= 0) & (place < columns.stop - columns.start)
    return torch.where(inside, place, 0).unsqueeze(1), inside


def _scaled(raw: Tensor, top: Tensor, temperature: float | int, keep: bool) -> Tensor:
    """(raw - top) / temperature in float32 at least; in place, if `raw` is not to be kept."""
    z = widen(raw)
    z = z - top.unsqueeze(1) if keep and z is raw else z.sub_(top.unsqueeze(1))
    return z if temperature == 1 else z.div_(temperature)


def _divided(x: Tensor, temperature: float | int) -> Tensor:
    return x if temperature == 1 else x / temperature


def _slope(log_p: Tensor, g: Tensor | None, e: Tensor | None, entropy: Tensor) -> Tensor:
    """-p (g + e (log p + H)), in place: the slope of a tile's logits, but for the tokens' own share."""
    if e is None:
        assert g is not None
        return log_p.exp_().mul_(-g)
    p = log_p.clamp_(min=NEVER).exp()  # 0 * -inf would be NaN
    slope = log_p.add_(entropy).mul_(-e)
    return (slope if g is None else slope.sub_(g)).mul_(p)


def _add(
    gradients: list[Tensor | None], slope: Tensor, hidden: Tensor, part: Tensor, rows: slice, columns: slice
) -> None:
    """Add a tile's share to the gradients of hidden states, weight and bias."""
    of_hidden, of_weight, of_bias = gradients
    if of_bias is not None:
        of_bias[columns] += slope.sum(dim=0)
    slope = slope.to(hidden.dtype)
    with torch.autocast(slope.device.type, enabled=False):
        if of_hidden is not None:
            of_hidden[rows] += slope @ part
        if of_weight is not None and rows.start == 0:
            of_weight[columns] = slope.T @ hidden  # the first to come here: cheaper than adding to zeros
        elif of_weight is not None:
            of_weight[columns] += slope.T @ hidden
