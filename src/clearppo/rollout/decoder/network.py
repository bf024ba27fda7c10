"""The layers of our own decoder: the transformer of a Blueprint in as few operations as it can be said in.

Precision. `stream` is that of the residual stream and the norms, `work` that of linear layers and attention. Both are
the policy's own; or float32 and bfloat16, and then every value is rounded where bf16 autocast rounds it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from clearppo.models.actor import plain_weights
from clearppo.rollout.decoder.blueprint import Affine, Blueprint, LayerWeights, complex_table
from clearppo.rollout.decoder.linear import Linear

Attend = Callable[[int, Tensor], Tensor]
"""(layer, its new queries, keys and values [T, heads + 2 kv_heads, d]) to what attention reads, [T, heads * d]."""


@dataclass
class _Layer:
    attention_norm: Affine
    qkv: Linear
    qk_norm: Tensor | None
    out: Linear
    mlp_norm: Affine
    up: Linear
    down: Linear


class Network:
    """Weights of one model, and the way through its layers for tokens that stand one behind the other."""

    def __init__(
        self, blueprint: Blueprint, *, stream: torch.dtype, work: torch.dtype, device: torch.device, packed: bool
    ) -> None:
        self.blueprint, self.stream, self.work, self.device = blueprint, stream, work, device

        def linear() -> Linear:
            return Linear(work, device, packed=packed)

        nothing = Affine(weight=torch.empty(0))
        self._layers = [
            _Layer(nothing, linear(), None, linear(), nothing, linear(), linear()) for _ in blueprint.scales
        ]
        self._head = linear()
        self._final_norm = nothing
        self._embedding = self._positions = torch.empty(0)

    def load(self, causal_lm: Any) -> None:
        """Take over the model's present weights, adapters merged, one layer after the other."""
        prefix = self.blueprint.prefix

        def layer_of(item: tuple[str, Tensor]) -> int:
            name = item[0]
            return int(name[len(prefix) :].split(".", 1)[0]) if name.startswith(prefix) else -1

        others: dict[str, Tensor] = {}
        # A state dict goes layer by layer, so merged weights of one layer at a time are in memory.
        for index, items in groupby(plain_weights(causal_lm), layer_of):
            if index < 0:
                others.update(items)
            else:
                self._take(self._layers[index], self.blueprint.layer(dict(items), index))
        inputs, outputs = (
            _name_of(causal_lm, module)
            for module in (causal_lm.get_input_embeddings(), causal_lm.get_output_embeddings())
        )
        # On the CPU the policy's own is read in place. A recorded CUDA graph needs it where it was.
        embedding = others[f"{inputs}.weight"]
        self._embedding = self._kept(self._embedding, embedding) if self.device.type == "cuda" else embedding
        _take([Affine(weight=others[f"{outputs}.weight"], bias=others.get(f"{outputs}.bias"))], self._head)
        self._final_norm = self._norm_of(self._final_norm, self.blueprint.final_norm(others))
        if self.blueprint.positions:
            self._positions = self._kept(self._positions, others[self.blueprint.positions])

    def release(self) -> None:
        """Forget the linear weights, which are nearly all; `load` comes before anything else."""
        for layer in self._layers:
            for linear in (layer.qkv, layer.out, layer.up, layer.down):
                linear.release()
        self._head.release()

    def embed(self, tokens: Int[Tensor, " T"], positions: Int[Tensor, " T"]) -> Float[Tensor, "T H"]:
        """The states that go into the first layer."""
        x = nn.functional.embedding(tokens, self._embedding)
        if self.blueprint.positions:
            x = x + nn.functional.embedding(positions, self._positions)
        return x

    def turns(self, length: int) -> Complex[Tensor, "L pairs"] | None:
        """How each position turns the pairs of a head; None where positions are learned."""
        rotary = self.blueprint.rotary
        return rotary and complex_table(rotary, length, self.blueprint.head_dim // 2, self.stream)

    def run(
        self, x: Float[Tensor, "T H"], turns: Complex[Tensor, "T pairs"] | None, attend: Attend
    ) -> Float[Tensor, "T H"]:
        """From embedded tokens to last hidden states; `attend` keeps keys and values and knows who sees whom."""
        if turns is not None:
            turns = turns[:, None]
        for index, layer in enumerate(self._layers):
            read = layer.out(attend(index, self._queries_keys_values(layer, x, turns)))
            if self.blueprint.parallel:
                x = (self._mlp(layer, x) + read) + x
            else:
                x = x + read
                x = x + self._mlp(layer, x)
        return self._norm(x, self._final_norm)

    def logits(self, hidden: Float[Tensor, "N H"]) -> Float[Tensor, "N V"]:
        """The head on last hidden states, in at least float32."""
        logits = self._head(hidden.to(self.work))
        return logits if logits.dtype == torch.float64 else logits.float()

    def _queries_keys_values(self, layer: _Layer, x: Tensor, turns: Tensor | None) -> Tensor:
        blueprint = self.blueprint
        fused = layer.qkv(self._norm(x, layer.attention_norm).to(self.work)).view(len(x), -1, blueprint.head_dim)
        if turns is None:
            return fused
        turning = fused[:, : blueprint.heads + blueprint.kv_heads]
        wide = turning if layer.qk_norm is None else rms_norm(turning, layer.qk_norm, blueprint.eps)
        wide = wide.to(torch.promote_types(self.stream, torch.float32))
        turned = torch.view_as_real(torch.view_as_complex(wide.unflatten(-1, (-1, 2))) * turns).flatten(-2)
        turning.copy_(turned)
        return fused

    def _mlp(self, layer: _Layer, x: Tensor) -> Tensor:
        inner = layer.up(self._norm(x, layer.mlp_norm).to(self.work))
        if not self.blueprint.gated:
            return layer.down(self.blueprint.activation(inner))
        gate, up = inner.chunk(2, dim=-1)
        return layer.down(self.blueprint.activation(gate).mul_(up))

    def _norm(self, x: Tensor, affine: Affine) -> Tensor:
        if self.blueprint.norm == "layer":
            return nn.functional.layer_norm(x, x.shape[-1:], affine.weight, affine.bias, self.blueprint.eps)
        return rms_norm(x, affine.weight, self.blueprint.eps)

    def _take(self, layer: _Layer, weights: LayerWeights) -> None:
        layer.attention_norm = self._norm_of(layer.attention_norm, weights.attention_norm)
        layer.mlp_norm = self._norm_of(layer.mlp_norm, weights.mlp_norm)
        if weights.qk_norm is not None:
            layer.qk_norm = self._kept(torch.empty(0) if layer.qk_norm is None else layer.qk_norm, weights.qk_norm)
        _take(weights.qkv, layer.qkv)
        _take([weights.out], layer.out)
        _take(weights.up, layer.up)
        _take([weights.down], layer.down)

    def _norm_of(self, old: Affine, new: Affine) -> Affine:
        bias = None if new.bias is None else self._kept(torch.empty(0) if old.bias is None else old.bias, new.bias)
        return Affine(weight=self._kept(old.weight, new.weight), bias=bias)

    def _kept(self, buffer: Tensor, values: Tensor) -> Tensor:
        """The values in this network's own storage, which stays where it is."""
        if buffer.shape != values.shape:
            buffer = torch.empty(values.shape, dtype=self.stream, device=self.device)
        return buffer.copy_(values)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight. In float32 whatever x is, as all models of these families have it."""
    if x.dtype == weight.dtype == torch.float32 and weight.ndim == 1:
        return nn.functional.rms_norm(x, weight.shape, weight, eps)
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype)


def _take(parts: Iterable[Affine], into: Linear) -> None:
    parts = list(parts)
    into.take([part.weight for part in parts], [part.bias for part in parts])


def _name_of(causal_lm: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in causal_lm.named_modules() if module is wanted)
