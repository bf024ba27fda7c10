"""Attention over short texts in half precision on a CPU, where torch's fused kernel is slow.

Of texts of 63 tokens the fused kernel needs 2 ms a layer forward and 12 ms backward (SmolLM2-135M, 8 rows, one core),
products of matrices 1 ms and 1.7 ms. At 256 tokens they are even, and the [L, L] scores begin to weigh in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from clearppo.models.fused import causal_products

NAME = "clearppo"
LONGEST = 256  # tokens
HALF = (torch.bfloat16, torch.float16)
_off = ContextVar("_off", default=False)
_NOT_HERE = ("softcap", "position_bias", "cache", "s_aux")  # what a layer may ask of attention besides


def attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa`, but by products of matrices where that is faster. [B, heads, L, d] to [B, L, heads, d].

    The scores and their softmax are in float32, as inside the fused kernel; the weights of the values are rounded to
    half precision, as there. Gradients come out nearer to the exact ones, because the scores' pass through float32.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    dtype = _product_dtype(query)
    length = query.shape[2]
    slow = dtype in HALF and query.device.type == "cpu" and 1 < length <= LONGEST
    plain = attention_mask is None and causal and not dropout and all(extra.get(name) is None for name in _NOT_HERE)
    if slow and plain and key.shape[2] == length and not _off.get():
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return causal_products(query.to(dtype), key.to(dtype), value.to(dtype), scale), None
    return sdpa_attention_forward(
        module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **extra
    )


@contextmanager
def torchs_own() -> Iterator[None]:
    """While this is open, `attention` is transformers' `sdpa` in all cases."""
    before = _off.set(True)
    try:
        yield
    finally:
        _off.reset(before)


def _product_dtype(x: Tensor) -> torch.dtype:
    on = torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64
    return torch.get_autocast_dtype(x.device.type) if on else x.dtype


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
