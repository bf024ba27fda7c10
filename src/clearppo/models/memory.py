"""How many tokens may pass through models at once in learning: what the backward pass needs, and what is free."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from clearppo.models.fused_layers import is_fused

SHARE = 0.5
"""Of the free memory. The rest is for what is not counted: logits in chunks, the decoder's cache, fragmentation."""
OPTIMISER = 3
"""A parameter that learns has a gradient and Adam's two moments, which are not there yet when this is asked."""
MOST = 2**18
"""Tokens; more at once make no product faster, and with a bound a small model has the same budget everywhere."""


def token_budget(networks: Sequence[Any], parameters: Iterable[nn.Parameter], free: int) -> int:
    """Tokens, padding included, whose saved activations in all `networks` (transformers models) fit into half of the
    `free` bytes that the optimiser of `parameters` will leave; a power of two, at most MOST, so that it seldom differs
    between runs.

    A model too large for its memory gets 1: one row at a time is the least that can be tried.
    """
    learned = sum(p.numel() * p.element_size() for p in parameters if p.requires_grad)
    room = SHARE * (free - OPTIMISER * learned)
    tokens = int(room / sum(saved_bytes(network) for network in networks))
    return min(1 << (tokens.bit_length() - 1), MOST) if tokens > 0 else 1


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
    layer = 8 * hidden + 2 * wide if is_fused(network) else 10 * hidden + 4 * wide
    # transformers renames it in version 6
    renamed = hasattr(type(network), "is_activation_checkpointing")
    checkpoints = getattr(network, "is_activation_checkpointing" if renamed else "is_gradient_checkpointing")
    numbers = layers * hidden + layer if checkpoints else layers * layer
    return numbers * next(network.parameters()).element_size()
