"""What our own decoder must know of a model: its shape, and which weights go where. No family is named here."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Affine:
    """Rows of a linear layer ([..., in], the leading axes are rows), or a norm's gain, with its bias if it has one."""

    weight: Tensor
    bias: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LayerWeights:
    """One layer's weights in the order of the decoder: queries, keys and values fused, so gate and up."""

    attention_norm: Affine
    qkv: list[Affine]
    qk_norm: Float[Tensor, "heads head_dim"] | None
    out: Affine
    mlp_norm: Affine
    up: list[Affine]
    down: Affine


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Rotary positions: pair i of a head turns by position * frequencies[i]; pairs beyond them do not turn."""

    frequencies: Float[Tensor, " pairs"]
    scaling: float


@dataclass(frozen=True, kw_only=True)
class Blueprint:
    """The shape of a causal transformer. `layer` and `final_norm` read a state dict without any wrapper's names."""

    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    norm: Literal["rms", "layer"]
    eps: float
    gated: bool
    activation: Callable[[Tensor], Tensor]
    parallel: bool
    """Attention and MLP read the same states and are added together (GPT-NeoX), instead of one after the other."""
    scales: tuple[float, ...]
    """What each layer multiplies the products of queries and keys by."""
    windows: tuple[int | None, ...]
    """How many tokens back each layer sees, its own included; None sees all."""
    rotary: Rotary | None
    positions: str | None
    """The name of the learned embedding of positions, where there are no rotary ones."""
    prefix: str
    """Layer i's weights have names that start with `prefix` and i."""
    layer: Callable[[Weights, int], LayerWeights]
    final_norm: Callable[[Weights], Affine]


def interleaved(head_dim: int, turning: int) -> list[int]:
    """The order of a head's dimensions in which the two of each pair (i and i + turning/2) are neighbours.

    Products of queries and keys do not change when both are reordered, and a pair of neighbours is a complex number,
    which one multiplication turns.
    """
    half = turning // 2
    return [index for i in range(half) for index in (i, i + half)] + list(range(turning, head_dim))


def by_head(weight: Tensor, head_dim: int) -> Tensor:
    """The rows of a projection, [heads * d, ...], as [heads, d, ...]."""
    return weight.view(-1, head_dim, *weight.shape[1:])


def take_rows(affine: Affine, head_dim: int, order: list[int] | slice) -> Affine:
    """A projection's rows with each head's dimensions reordered, or a part of them."""
    bias = None if affine.bias is None else by_head(affine.bias, head_dim)[:, order]
    return Affine(weight=by_head(affine.weight, head_dim)[:, order], bias=bias)


def affine(weights: Weights, name: str, *, transposed: bool = False) -> Affine:
    """The weight and, where it has one, the bias of the module `name`."""
    weight = weights[f"{name}.weight"]
    return Affine(weight=weight.T if transposed else weight, bias=weights.get(f"{name}.bias"))


def complex_table(rotary: Rotary, length: int, pairs: int, dtype: torch.dtype) -> Tensor:
    """[length, pairs] complex numbers that turn the pairs of a head, computed in float32 as transformers does.

    `dtype` is that of the residual stream: transformers rounds sines and cosines to it.
    """
    frequencies = rotary.frequencies.float()
    angles = torch.arange(length, device=frequencies.device, dtype=torch.float32)[:, None] * frequencies
    wide = torch.promote_types(dtype, torch.float32)
    real, imaginary = ((f(angles) * rotary.scaling).to(dtype).to(wide) for f in (torch.cos, torch.sin))
    table = torch.ones(length, pairs, dtype=wide, device=angles.device).to(torch.complex(real, imaginary).dtype)
    table[:, : angles.shape[1]] = torch.complex(real, imaginary)
    return table
