"""Attention of a decode step, where each row has one query a head, and the masks of steps and prefills."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def step_attention(
    queries: Float[Tensor, "N K G D"],
    keys: Float[Tensor, "N K L D"],
    values: Float[Tensor, "N K L D"],
    mask: Float[Tensor, "N 1 1 L"] | None,
    scale: float,
) -> Float[Tensor, "N K G D"]:
    """What each row's queries read. The G heads that share keys are queries of one head, so no keys are repeated.

    PyTorch's kernel, but for bfloat16 on a CPU, where that kernel is up to three times slower than the products one by
    one: products rounded to bf16, softmax in float32, its result rounded as the kernel rounds it.
    """
    if keys.dtype != torch.bfloat16 or keys.device.type != "cpu":
        wide = None if mask is None else mask.to(keys.dtype).expand(-1, -1, queries.shape[2], -1)
        return F.scaled_dot_product_attention(queries, keys, values, wide, scale=scale)
    # With the few queries as columns oneDNN is twice as fast as with them as rows.
    scores = torch.matmul(keys, queries.transpose(-1, -2)).transpose(-1, -2)
    scores = scores.float() * scale if mask is None else torch.add(mask, scores, alpha=scale)
    return torch.matmul(scores.softmax(dim=-1).to(values.dtype), values)


def visible(ends: Int[Tensor, " N"], columns: int, window: int | None, dtype: torch.dtype) -> Float[Tensor, "N 1 1 L"]:
    """A step's mask: 0 for what row r sees, columns up to ends[r] (the newest token's), and -inf for the rest."""
    column = torch.arange(columns, device=ends.device)
    hidden = column > ends[:, None]
    if window is not None:
        hidden |= column <= ends[:, None] - window
    return _additive(hidden, dtype)[:, None, None]


def band(width: int, window: int | None, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "S S"] | None:
    """A prefill's mask of a causal window over `width` tokens; None where causal alone says it."""
    if window is None or window >= width:
        return None
    ones = torch.ones(width, width, dtype=torch.bool, device=device)
    return _additive(ones.triu(1) | ones.tril(-window), dtype)


def _additive(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))
