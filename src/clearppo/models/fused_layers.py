"""Layers of Llama and its kin that run through models/fused.py instead of transformers' own forward functions.

The modules stay transformers', with their names and weights: what is saved, wrapped by PEFT or copied does not change.
A module that is not known (another class, a quantised or unusual adapter, a cache, float64) runs as it always did.
"""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from clearppo.models import fused

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")


def fuse_layers(model: Any) -> bool:
    """Let the layers of a transformers model run fused, as far as they are known; whether any does."""
    backbone = getattr(model, model.base_model_prefix, None)
    family = getattr(getattr(model, "config", None), "model_type", None)
    if family not in FAMILIES or not type(model).__module__.startswith(f"transformers.models.{family}."):
        return False
    for layer in getattr(backbone, "layers", ()):
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            _put(norm, _norm)
        _put(layer.self_attn, _attention)
        if model.config.hidden_act == "silu":
            _put(layer.mlp, _mlp)
    return True


def unfuse_layers(model: Any) -> None:
    """Let all layers run as transformers runs them."""
    for module in model.modules():
        module.__dict__.pop("forward", None)


def is_fused(model: Any) -> bool:
    """Whether layers of this model run fused."""
    return any("forward" in module.__dict__ for module in model.modules())


def _put(module: nn.Module, forward: Any) -> None:
    module.forward = MethodType(forward, module)


def _norm(self: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.dtype == torch.float64:
        return type(self).forward(self, hidden_states)
    return fused.rms_norm(hidden_states, self.weight, self.variance_epsilon)


def _mlp(self: Any, x: Tensor) -> Tensor:
    weights = _all_known(x, (self.gate_proj, self.up_proj, self.down_proj))
    return type(self).forward(self, x) if weights is None else fused.gated_mlp(x, *weights)


def _attention(
    self: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **extra: Any,
) -> tuple[Tensor, Tensor | None]:
    first = _all_known(hidden_states, (self.q_proj, self.k_proj, self.v_proj))
    last = _all_known(hidden_states, (self.o_proj,))
    run = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation)  # None: eager
    if first is None or last is None or run is None or past_key_values is not None or position_embeddings is None:
        return type(self).forward(
            self, hidden_states, position_embeddings, attention_mask, past_key_values=past_key_values, **extra
        )
    cos, sin = position_embeddings
    n_query, n_key = (weight.full.shape[0] // self.head_dim for weight in first[:2])
    joint = fused.joint_linear(hidden_states, first).unflatten(-1, (-1, self.head_dim))
    query, key, value = joint.split([n_query, n_key, n_key], dim=2)
    if hasattr(self, "q_norm"):
        query, key = self.q_norm(query), self.k_norm(key)
    if getattr(self, "sliding_window", None) is not None:
        extra["sliding_window"] = self.sliding_window
    out, weights = run(
        self,
        fused.rotated(query, cos, sin),
        fused.rotated(key, cos, sin),
        value.transpose(1, 2),
        attention_mask,
        dropout=0.0,
        scaling=self.scaling,
        **extra,
    )
    return fused.joint_linear(out.flatten(2), last), weights


def _all_known(x: Tensor, modules: Sequence[Any]) -> list[fused.Weight] | None:
    """The weights of these layers, if all of them are plain or plainly adapted, and the states are not float64."""
    if x.dtype == torch.float64:
        return None
    weights = [_known(module) for module in modules]
    return None if any(weight is None for weight in weights) else [weight for weight in weights if weight is not None]


def _known(module: Any) -> fused.Weight | None:
    if type(module) is nn.Linear:
        return fused.Weight(module.weight, module.bias)
    if type(module) is not LoraLinear or type(module.base_layer) is not nn.Linear or module.merged:
        return None
    layer: Any = module  # peft's types do not say what its tables hold
    base = layer.base_layer
    names = [] if layer.disable_adapters else [name for name in layer.active_adapters if name in layer.lora_A]
    if not all(is_plain_adapter(layer, name) for name in names):
        return None
    terms = [fused.Term(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]) for name in names]
    return fused.Weight(base.weight, base.bias, tuple(terms))


def is_plain_adapter(layer: Any, name: str) -> bool:
    """Whether a PEFT layer's adapter is scale * B A on a linear layer and no more: no variant such as DoRA, no bias of
    its own, no dropout."""
    if type(layer) is not LoraLinear or layer.fan_in_fan_out:
        return False
    adapter: Any = layer
    dropout = adapter.lora_dropout[name]
    idle = isinstance(dropout, nn.Identity) or not dropout.training or dropout.p == 0
    return bool(idle and name not in adapter.lora_variant and not adapter.lora_bias.get(name, False))
