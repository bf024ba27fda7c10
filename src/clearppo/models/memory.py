"""How many tokens may pass through models at once in learning: what the backward pass needs, and what is free."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from clearppo.models.fused_layers import is_fused
from clearppo.plan.memory import MOST, budget_bytes, tokens_in

__all__ = ["MOST", "saved_bytes", "token_budget"]


def token_budget(networks: Sequence[Any], parameters: Iterable[nn.Parameter], free: int) -> int:
    """Tokens, padding included, whose saved activations in all `networks` (transformers models) fit into half of the
    `free` bytes that the optimiser of `parameters` will leave: `tokens_in` of plan/memory.py."""
    learned = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    return tokens_in(free, learned, sum(saved_bytes(network) for network in networks))


def saved_bytes(network: Any) -> int:
    """Bytes that one token's activations take between forward and backward pass, in the precision of the weights.

        layers * (10 * hidden + 4 * intermediate) numbers

    counted in a Llama layer of transformers: the inputs of both norms and of what they feed, queries, keys, values and
    the attention's result; gate, up, their activation and product. SmolLM2-135M: 1.43 MB in float32 (measured: 1.41
    MB). Where models/fused_layers.py serves, layers * (8 * hidden + 2 * intermediate): the residual stream where both
    norms read it, their results, queries, keys, values and the attention's result; gate and up. In bf16 autocast most
    of them are half as large, which is not counted. With gradient checkpointing: hidden a layer, and one whole layer
    at a time. Attention that keeps its scores (eager) takes more.
    """
    config = network.config.get_text_config()
    layers, hidden = config.num_hidden_layers, config.hidden_size
    wide = getattr(config, "intermediate_size", None) or 4 * hidden
    wide = max(wide) if isinstance(wide, list | tuple) else wide  # Gemma 3n: one for each layer
    # transformers renames it in version 6
    renamed = hasattr(type(network), "is_activation_checkpointing")
    checkpoints = getattr(network, "is_activation_checkpointing" if renamed else "is_gradient_checkpointing")
    return budget_bytes(
        layers=layers, hidden=hidden, wide=wide, fused=is_fused(network),
        item=next(network.parameters()).element_size(), checkpointing=bool(checkpoints),
    )  # fmt: skip
