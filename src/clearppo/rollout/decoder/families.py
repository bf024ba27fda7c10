"""The families that our own decoder knows: Llama and its kin, GPT-2, GPT-NeoX. Each has a function to a Blueprint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clearppo.rollout.decoder.blueprint import (
    Affine,
    Blueprint,
    LayerWeights,
    Rotary,
    Weights,
    affine,
    interleaved,
    take_rows,
)

STATIC_ROPE = frozenset({"default", "linear", "llama3", "yarn"})


class UnknownModelError(Exception):
    """Our own decoder does not know this model; the message says what it does not know. Never shown as an error."""


def blueprint_of(causal_lm: Any) -> Blueprint:
    """The model's blueprint, from its configuration. Raises UnknownModelError."""
    kind = type(causal_lm)
    name = causal_lm.config.model_type
    if name not in FAMILIES or not kind.__module__.startswith(f"transformers.models.{name}."):
        raise UnknownModelError(f"{kind.__name__} is not one of {', '.join(FAMILIES)}")
    return FAMILIES[name](causal_lm)


def _llama(causal_lm: Any) -> Blueprint:
    """Llama 1 to 3 and SmolLM, Mistral, Qwen2, Qwen2.5 and Qwen3."""
    config, backbone = causal_lm.config, causal_lm.model
    head_dim = backbone.layers[0].self_attn.head_dim
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    if config.model_type == "mistral" and config.sliding_window is not None:
        kinds = ["sliding_attention"] * config.num_hidden_layers
    if unknown := set(kinds) - {"full_attention", "sliding_attention"}:
        raise UnknownModelError(f"layers of kind {', '.join(sorted(unknown))}")
    rotary = _rotary(backbone.rotary_emb)
    order = interleaved(head_dim, 2 * len(rotary.frequencies))

    def layer(weights: Weights, index: int) -> LayerWeights:
        at = f"model.layers.{index}."
        q, k, v = (affine(weights, f"{at}self_attn.{name}_proj") for name in "qkv")
        norms = [weights.get(f"{at}self_attn.{name}_norm.weight") for name in "qk"]
        return LayerWeights(
            attention_norm=affine(weights, f"{at}input_layernorm"),
            qkv=[take_rows(q, head_dim, order), take_rows(k, head_dim, order), v],
            qk_norm=_qk_norm(norms, order, config),
            out=affine(weights, f"{at}self_attn.o_proj"),
            mlp_norm=affine(weights, f"{at}post_attention_layernorm"),
            up=[affine(weights, f"{at}mlp.gate_proj"), affine(weights, f"{at}mlp.up_proj")],
            down=affine(weights, f"{at}mlp.down_proj"),
        )

    return Blueprint(
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        norm="rms",
        eps=config.rms_norm_eps,
        gated=True,
        activation=_activation(config.hidden_act),
        parallel=False,
        scales=(head_dim**-0.5,) * config.num_hidden_layers,
        windows=tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds),
        rotary=rotary,
        positions=None,
        prefix="model.layers.",
        layer=layer,
        final_norm=lambda weights: affine(weights, "model.norm"),
    )


def _qk_norm(norms: list[Tensor | None], order: list[int], config: Any) -> Tensor | None:
    """The gains of Qwen3's norms of queries and keys, one line a head."""
    queries, keys = norms
    if queries is None or keys is None:
        return None
    counts = (config.num_attention_heads, config.num_key_value_heads)
    return torch.cat([gain[order].expand(count, -1) for gain, count in zip((queries, keys), counts, strict=True)])


def _gpt2(causal_lm: Any) -> Blueprint:
    config = causal_lm.config
    head_dim = config.hidden_size // config.num_attention_heads
    if config.add_cross_attention:
        raise UnknownModelError("cross-attention")
    scale = head_dim**-0.5 if config.scale_attn_weights else 1.0

    def layer(weights: Weights, index: int) -> LayerWeights:
        at = f"transformer.h.{index}."
        return LayerWeights(
            attention_norm=affine(weights, f"{at}ln_1"),
            qkv=[affine(weights, f"{at}attn.c_attn", transposed=True)],
            qk_norm=None,
            out=affine(weights, f"{at}attn.c_proj", transposed=True),
            mlp_norm=affine(weights, f"{at}ln_2"),
            up=[affine(weights, f"{at}mlp.c_fc", transposed=True)],
            down=affine(weights, f"{at}mlp.c_proj", transposed=True),
        )

    return Blueprint(
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_dim,
        norm="layer",
        eps=config.layer_norm_epsilon,
        gated=False,
        activation=_activation(config.activation_function),
        parallel=False,
        scales=tuple(
            scale / (i + 1 if config.scale_attn_by_inverse_layer_idx else 1) for i in range(config.num_hidden_layers)
        ),
        windows=(None,) * config.num_hidden_layers,
        rotary=None,
        positions="transformer.wpe.weight",
        prefix="transformer.h.",
        layer=layer,
        final_norm=lambda weights: affine(weights, "transformer.ln_f"),
    )


def _gpt_neox(causal_lm: Any) -> Blueprint:
    config = causal_lm.config
    head_dim = config.hidden_size // config.num_attention_heads
    rotary = _rotary(causal_lm.gpt_neox.rotary_emb)
    order = interleaved(head_dim, 2 * len(rotary.frequencies))

    def layer(weights: Weights, index: int) -> LayerWeights:
        at = f"gpt_neox.layers.{index}."
        # Each head's rows are its query, its key and its value, one behind the other.
        fused = affine(weights, f"{at}attention.query_key_value")
        q, k, v = (_third(fused, head_dim, which) for which in range(3))
        return LayerWeights(
            attention_norm=affine(weights, f"{at}input_layernorm"),
            qkv=[take_rows(q, head_dim, order), take_rows(k, head_dim, order), v],
            qk_norm=None,
            out=affine(weights, f"{at}attention.dense"),
            mlp_norm=affine(weights, f"{at}post_attention_layernorm"),
            up=[affine(weights, f"{at}mlp.dense_h_to_4h")],
            down=affine(weights, f"{at}mlp.dense_4h_to_h"),
        )

    return Blueprint(
        hidden_size=config.hidden_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_attention_heads,
        head_dim=head_dim,
        norm="layer",
        eps=config.layer_norm_eps,
        gated=False,
        activation=_activation(config.hidden_act),
        parallel=config.use_parallel_residual,
        scales=(head_dim**-0.5,) * config.num_hidden_layers,
        windows=(None,) * config.num_hidden_layers,
        rotary=rotary,
        positions=None,
        prefix="gpt_neox.layers.",
        layer=layer,
        final_norm=lambda weights: affine(weights, "gpt_neox.final_layer_norm"),
    )


def _third(fused: Affine, head_dim: int, which: int) -> Affine:
    """Queries (0), keys (1) or values (2) out of [heads * 3 * d, ...] rows."""
    part = take_rows(fused, 3 * head_dim, slice(which * head_dim, (which + 1) * head_dim))
    return Affine(weight=part.weight.flatten(0, 1), bias=None if part.bias is None else part.bias.flatten())


def _rotary(module: Any) -> Rotary:
    if module.rope_type not in STATIC_ROPE:
        raise UnknownModelError(f"rotary positions of type {module.rope_type}, whose frequencies depend on the length")
    return Rotary(frequencies=module.inv_freq, scaling=float(module.attention_scaling))


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name not in ACTIVATIONS:
        raise UnknownModelError(f"the activation {name}")
    return ACTIVATIONS[name]


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "swish": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
}

FAMILIES: dict[str, Callable[[Any], Blueprint]] = {
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
}
