"""The parts of a Llama layer as autograd functions with closed-form gradients, that keep little for the backward pass.

transformers' layers keep, of each token, whatever an elementwise operation read: a normalised state in float32, the
same state once more for each product that reads it, queries and keys before and after their rotation, the activation
and its product. Here a layer keeps the residual stream where a norm reads it, the norms' results, rotated queries and
keys, values, the attention's weights and result, gate and up: less than half; the rest is computed again, which costs
less than to write and read it. Products that read the same state are one product.

The arithmetic is that of transformers: sums, norms and softmax in float32, products in the precision of autocast or of
the states. Nothing here runs in float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


@dataclass(frozen=True)
class Term:
    """A low-rank term of a weight: scale * b @ a, a [r, in], b [out, r]."""

    a: Tensor
    b: Tensor
    scale: float


@dataclass(frozen=True)
class Weight:
    """The weight of a linear layer [out, in], its bias or None, and low-rank terms that are added to it."""

    full: Tensor
    bias: Tensor | None = None
    terms: tuple[Term, ...] = ()


def product_dtype(x: Tensor) -> torch.dtype:
    """In what a product with `x` computes: autocast's precision if it is on, else its own."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def rms_norm(x: Float[Tensor, "*n H"], weight: Float[Tensor, " H"], eps: float) -> Float[Tensor, "*n H"]:
    """weight * x / sqrt(mean(x^2) + eps), in the precision of the products that read it."""
    return _RMSNorm.apply(x, weight, eps, product_dtype(x))


def joint_linear(x: Float[Tensor, "*n I"], weights: Sequence[Weight]) -> Float[Tensor, "*n O"]:
    """The results of several linear layers on the same states, side by side."""
    shape, flat = _flat(weights)
    return _JointLinear.apply(x, shape, product_dtype(x), *flat)


def gated_mlp(x: Float[Tensor, "*n H"], gate: Weight, up: Weight, down: Weight) -> Float[Tensor, "*n H"]:
    """down(silu(gate(x)) * up(x))."""
    first, flat = _flat([gate, up])
    second, more = _flat([down])
    return _GatedMLP.apply(x, first, second, product_dtype(x), *flat, *more)


def rotated(
    x: Float[Tensor, "B L n d"], cos: Float[Tensor, "#B L d"], sin: Float[Tensor, "#B L d"]
) -> Float[Tensor, "B n L d"]:
    """Rotary positions (Su et al. 2021), pairs half a head apart: x * cos + (-x2, x1) * sin; heads before tokens."""
    return _Rotated.apply(x, cos, sin)


def causal_products(
    query: Float[Tensor, "B n L d"], key: Float[Tensor, "B g L d"], value: Float[Tensor, "B g L e"], scale: float
) -> Float[Tensor, "B L n e"]:
    """softmax(scale * q k^T, of what is not ahead) v; neighbouring query heads share a key and value head.

    The scores and their softmax are in float32; the weights of the values are rounded to the values' precision.
    """
    return _CausalProducts.apply(query, key, value, scale)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        wide = x.float()
        rstd = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, rstd)
        return (weight * (wide * rstd).to(x.dtype)).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, rstd = ctx.saved_tensors
        normed = x.float() * rstd
        slope = g.float() if g.dtype != torch.float32 else g.clone()
        each = slope * normed
        of_weight = each.flatten(0, -2).sum(0).to(weight.dtype) if ctx.needs_input_grad[1] else None
        mean = (each @ weight.float()).div_(x.shape[-1]).unsqueeze(-1)
        of_x = slope.mul_(weight).addcmul_(normed, mean, value=-1).mul_(rstd)
        return of_x.to(x.dtype), of_weight, None, None


Shape = tuple[tuple[bool, tuple[float, ...]], ...]
"""Of each weight, whether it has a bias, and the scales of its terms."""


def _flat(weights: Sequence[Weight]) -> tuple[Shape, list[Tensor]]:
    """The weights as autograd wants them, and what is needed to read them again."""
    flat: list[Tensor] = []
    for weight in weights:
        flat += [weight.full, *([] if weight.bias is None else [weight.bias])]
        for term in weight.terms:
            flat += [term.a, term.b]
    return tuple((w.bias is not None, tuple(t.scale for t in w.terms)) for w in weights), flat


def _weights(shape: Shape, flat: Sequence[Tensor]) -> list[Weight]:
    rest = list(flat)
    weights = []
    for has_bias, scales in shape:
        full, bias = rest.pop(0), rest.pop(0) if has_bias else None
        terms = tuple(Term(a=rest.pop(0), b=rest.pop(0), scale=scale) for scale in scales)
        weights.append(Weight(full, bias, terms))
    return weights


def _n_flat(shape: Shape) -> int:
    return sum(1 + has_bias + 2 * len(scales) for has_bias, scales in shape)


class _Joint:
    """Several weights as one product y = x W^T + b + (x A^T) B^T, B of blocks along its diagonal."""

    def __init__(self, weights: Sequence[Weight], dtype: torch.dtype) -> None:
        self.weights = weights
        self.dtype = dtype
        sizes = [weight.full.shape[0] for weight in weights]
        self.ends = list(accumulate(sizes, initial=0))
        self.full = _stacked([weight.full for weight in weights], dtype)
        terms = [(i, term) for i, weight in enumerate(weights) for term in weight.terms]
        self.terms = terms
        self.a: Tensor | None = None
        if terms:
            self.a = _stacked([term.a for _, term in terms], dtype)
            self.b = self.full.new_zeros(self.ends[-1], self.a.shape[0])
            for rows, columns, term in self._blocks():
                self.b[rows, columns].copy_(term.b.detach() * term.scale)

    def _blocks(self) -> list[tuple[slice, slice, Term]]:
        """Where in B each term stands."""
        blocks, start = [], 0
        for i, term in self.terms:
            end = start + term.a.shape[0]
            blocks.append((slice(self.ends[i], self.ends[i + 1]), slice(start, end), term))
            start = end
        return blocks

    def forward(self, x: Tensor) -> Tensor:
        """[N, in] to [N, out]."""
        biases = [weight.bias for weight in self.weights]
        y = torch.mm(x, self.full.t())
        if self.a is not None:
            y.addmm_(torch.mm(x, self.a.t()), self.b.t())
        if any(bias is not None for bias in biases):
            for (start, end), bias in zip(pairwise(self.ends), biases, strict=True):
                if bias is not None:
                    y[:, start:end] += bias.to(self.dtype)
        return y

    def of_x(self, g: Tensor) -> Tensor:
        """The gradient of x, of that of y."""
        out = torch.mm(g, self.full)
        if self.a is not None:
            out.addmm_(torch.mm(g, self.b), self.a)
        return out

    def of_weights(self, g: Tensor, x: Tensor, asked: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the flat weights, None where nobody asked."""
        wanted = list(asked)
        of_full = self._of_full(g, x, wanted)
        of_a = of_b = None
        if self.a is not None and any(asked):
            of_a, of_b = torch.mm(torch.mm(g, self.b).t(), x), torch.mm(g.t(), torch.mm(x, self.a.t()))
        blocks = iter(self._blocks())
        out: list[Tensor | None] = []
        for i, weight in enumerate(self.weights):
            rows = slice(self.ends[i], self.ends[i + 1])
            out.append(of_full[i])
            wanted.pop(0)
            if weight.bias is not None:
                out.append(g[:, rows].sum(0, dtype=torch.float32).to(weight.bias.dtype) if wanted.pop(0) else None)
            for term in weight.terms:
                rows, columns, _ = next(blocks)
                assert of_a is not None
                assert of_b is not None
                out.append(of_a[columns].to(term.a.dtype) if wanted.pop(0) else None)
                out.append((of_b[rows, columns].to(term.b.dtype) * term.scale) if wanted.pop(0) else None)
        return out

    def _of_full(self, g: Tensor, x: Tensor, asked: Sequence[bool]) -> list[Tensor | None]:
        """The gradients of the full weights: one product for all, if all of them learn."""
        place, learns = 0, []
        for weight in self.weights:
            learns.append(asked[place])
            place += 1 + (weight.bias is not None) + 2 * len(weight.terms)
        if not any(learns):
            return [None] * len(learns)
        whole = torch.mm(g.t(), x)
        return [
            whole[start:end].to(weight.full.dtype) if learn else None
            for (start, end), weight, learn in zip(pairwise(self.ends), self.weights, learns, strict=True)
        ]


def _stacked(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The parts below each other, rounded to `dtype` on their way."""
    if len(parts) == 1:
        return parts[0].detach().to(dtype)
    out = parts[0].new_empty((sum(part.shape[0] for part in parts), parts[0].shape[1]), dtype=dtype)
    start = 0
    for part in parts:
        out[start : start + part.shape[0]].copy_(part.detach())
        start += part.shape[0]
    return out


class _JointLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape, dtype: torch.dtype, *flat: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.shape, ctx.dtype, ctx.x_dtype = shape, dtype, x.dtype
        rows = x.to(dtype).reshape(-1, x.shape[-1])
        ctx.save_for_backward(rows, *flat)
        with torch.autocast(x.device.type, enabled=False):
            return _Joint(_weights(shape, flat), dtype).forward(rows).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, *flat = ctx.saved_tensors
        joint = _Joint(_weights(ctx.shape, flat), ctx.dtype)
        slope = g.reshape(-1, g.shape[-1])
        of_x = joint.of_x(slope).view(*g.shape[:-1], -1).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        return of_x, None, None, *joint.of_weights(slope, rows, ctx.needs_input_grad[3:])


class _GatedMLP(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, x: Tensor, first: Shape, second: Shape, dtype: torch.dtype, *flat: Tensor
    ) -> Tensor:
        ctx.first, ctx.second, ctx.dtype, ctx.x_dtype = first, second, dtype, x.dtype
        count = _n_flat(first)
        with torch.autocast(x.device.type, enabled=False):
            rows = x.to(dtype).reshape(-1, x.shape[-1])
            both = _Joint(_weights(first, flat[:count]), dtype).forward(rows)
            gate, up = both.chunk(2, dim=-1)
            inner = functional.silu(gate).mul_(up)
            out = _Joint(_weights(second, flat[count:]), dtype).forward(inner)
        ctx.save_for_backward(rows, both, *flat)
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows, both, *flat = ctx.saved_tensors
        count, asked = _n_flat(ctx.first), ctx.needs_input_grad[4:]
        down = _Joint(_weights(ctx.second, flat[count:]), ctx.dtype)
        slope = g.reshape(-1, g.shape[-1])
        gate, up = both.chunk(2, dim=-1)
        active = functional.silu(gate)
        of_down = (
            down.of_weights(slope, active * up, asked[count:]) if any(asked[count:]) else [None] * len(flat[count:])
        )
        of_inner = down.of_x(slope)
        del down
        of_both = torch.empty_like(both)
        of_gate, of_up = of_both.chunk(2, dim=-1)
        torch.mul(of_inner, active, out=of_up)
        of_gate.copy_(torch.ops.aten.silu_backward(of_inner.mul_(up), gate))
        joint = _Joint(_weights(ctx.first, flat[:count]), ctx.dtype)
        of_x = joint.of_x(of_both).view(*g.shape[:-1], -1).to(ctx.x_dtype) if ctx.needs_input_grad[0] else None
        return of_x, None, None, None, *joint.of_weights(of_both, rows, asked[:count]), *of_down


class _Rotated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        ctx.save_for_backward(cos, sin)
        wide = x.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        half = x.shape[-1] // 2
        out = wide * cos
        out[..., :half].addcmul_(wide[..., half:], sin[..., :half], value=-1)
        out[..., half:].addcmul_(wide[..., :half], sin[..., half:])
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        cos, sin = ctx.saved_tensors
        wide = g.float()
        half = g.shape[-1] // 2
        out = wide * cos
        out[..., :half].addcmul_(wide[..., half:], sin[..., half:])
        out[..., half:].addcmul_(wide[..., :half], sin[..., :half], value=-1)
        return out.transpose(1, 2).to(g.dtype, memory_format=torch.contiguous_format), None, None


class _CausalProducts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        B, n, L, d = query.shape
        g = key.shape[1]
        query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
        with torch.autocast(query.device.type, enabled=False):
            rows = query.view(B, g, -1, d).float() * scale
            scores = (rows @ key.float().transpose(2, 3)).view(B, n, L, L)
            ahead = torch.ones(L, L, dtype=torch.bool, device=query.device).triu(1)
            weights = scores.masked_fill_(ahead, -torch.inf).softmax(dim=-1).to(value.dtype)
            out = weights.view(B, g, -1, L) @ value
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, weights)
        return out.view(B, n, L, -1).transpose(1, 2).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, weights = ctx.saved_tensors
        B, n, L, d = query.shape
        g = key.shape[1]
        slope = slope.transpose(1, 2).reshape(B, g, -1, value.shape[-1])
        weights = weights.view(B, g, -1, L)
        of_value = weights.transpose(2, 3) @ slope
        of_weights = (slope @ value.transpose(2, 3)).float()
        wide = weights.float()
        of_scores = of_weights.sub_((of_weights * wide).sum(-1, keepdim=True)).mul_(wide)
        of_query = (of_scores @ key.float()).mul_(ctx.scale)
        of_key = of_scores.transpose(2, 3) @ query.view(B, g, -1, d).float().mul_(ctx.scale)
        return of_query.view(B, n, L, d).to(query.dtype), of_key.to(key.dtype), of_value, None
