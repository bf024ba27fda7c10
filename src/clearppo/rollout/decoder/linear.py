"""Linear layers for decoding: several weights fused into one, packed for the processor where that is found to work.

A decode step multiplies few rows by every weight of the model. oneDNN does that up to twice as fast on weights that
it has laid out itself beforehand. PyTorch has that for its own compiler only, under names that it may change; so it is
used only where a probe gives what F.linear gives, and F.linear is used everywhere else.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

PACK_ROWS = 32  # the number of rows that the layout is made for; others work too
PROBE = 48


class Linear:
    """y = x W^T + b whose weights can be exchanged. `parts` of W stand one below the other."""

    def __init__(self, dtype: torch.dtype, device: torch.device, *, packed: bool) -> None:
        self._dtype, self._device, self._packs = dtype, device, packed
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None

    def take(self, weights: Sequence[Tensor], biases: Sequence[Tensor | None]) -> None:
        """Copy these weights (each [..., in], its leading axes are rows) and biases (all or none) in.

        Without packing the storage stays where it is, so that recorded CUDA graphs see the new weights.
        """
        width, rows = weights[0].shape[-1], sum(part.numel() // part.shape[-1] for part in weights)
        plain = self._weight if self._weight is not None and not self._packs else self._empty(rows, width)
        _fill(plain.view(-1), weights)
        self._weight = _pack(plain) if self._packs else plain
        if any(bias is not None for bias in biases):
            self._bias = self._empty(rows) if self._bias is None else self._bias
            _fill(self._bias, [bias for bias in biases if bias is not None])

    def release(self) -> None:
        """Forget the weights; `take` comes before the next product."""
        self._weight = self._bias = None

    def __call__(self, x: Tensor) -> Tensor:
        """[N, in] to [N, out], in this layer's precision."""
        assert self._weight is not None
        if self._packs:
            return _packed_linear(x, self._weight, self._bias)
        return nn.functional.linear(x, self._weight, self._bias)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(shape, dtype=self._dtype, device=self._device)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether packed weights of this precision give the right products here."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and _probe(dtype)


@cache
def _probe(dtype: torch.dtype) -> bool:
    random = torch.Generator().manual_seed(0)
    x = torch.randn(3, PROBE, generator=random).to(dtype)
    weight, bias = torch.randn(PROBE + 1, PROBE, generator=random).to(dtype), torch.ones(PROBE + 1, dtype=dtype)
    # Either product is a rounded sum of 48 terms of size 1.
    tolerance = 1e-4 if dtype == torch.float32 else 0.2
    try:
        with torch.no_grad():
            found = _packed_linear(x, _pack(weight), bias)
    except Exception:  # a private name that is gone, or a processor that oneDNN does not serve: anything may be raised
        return False
    expected = nn.functional.linear(x, weight, bias)
    same_kind = found.dtype == dtype and found.shape == expected.shape
    return same_kind and bool((found - expected).abs().max() <= tolerance)


def _pack(weight: Tensor) -> Tensor:
    return _mkldnn()._reorder_linear_weight(weight, PACK_ROWS)


def _packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _mkldnn()._linear_pointwise(x, weight, bias, "none", [], "")


def _mkldnn() -> Any:
    return torch.ops.mkldnn


def _fill(buffer: Tensor, parts: Sequence[Tensor]) -> None:
    """Write the parts behind each other, in the buffer's precision."""
    start = 0
    for part in parts:
        buffer[start : start + part.numel()].view(part.shape).copy_(part)
        start += part.numel()
