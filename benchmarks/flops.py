"""How many floating-point operations an iteration needs: the yardstick for "achieved FLOP/s".

Counted is what the mathematics needs, not what an implementation does: padding, a pass that is made twice, activations
that are computed again and the elementwise operations between the matrix products count nothing. A product with a
weight matrix of n entries costs a token

    2 n  forward,   2 n  for the gradient of its input,   2 n  for the gradient of the weight, if it learns.

Causal attention costs a sequence of L tokens 2 L^2 for each of layers x heads x head size forward (each token sees half
of the others on average; once for the scores, once for the values), and twice that backward. The head over the
vocabulary is needed where a token is drawn or learned only. So, summed over sequences of L = P + T tokens,

    generation   sum (2 n_b (L - 1) + 2 a L^2 + 2 n_h T)
    reference    sum (2 n_b L       + 2 a L^2 + 2 n_h T)     with or without frozen layers: they are run once
    reward model sum (2 n_b L       + 2 a L^2)
    learning     epochs x sum (k n_b L + 6 a L^2 + k n_h T),  and the same without the head for a separate critic

with n_b the backbone's and n_h the head's entries, a = layers x heads x head size, and k = 6 for weights that learn, 4
for frozen ones that gradients pass through. Of layers that `freeze_layers` freezes, learning needs nothing.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Entries of the matrices that a token passes through: those that learn, and those that do not."""

    learned: int = 0
    frozen: int = 0

    @property
    def forward(self) -> int:
        """FLOPs a token."""
        return 2 * (self.learned + self.frozen)

    @property
    def learning(self) -> int:
        """FLOPs a token, forward and backward."""
        return 6 * self.learned + 4 * self.frozen


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the formulas need of a transformer. `upper` is the part of `backbone` that learning runs through."""

    backbone: Weights
    upper: Weights
    head: Weights
    attention: int
    upper_attention: int


@dataclass(frozen=True)
class Batch:
    """The lengths in tokens of an iteration's sequences: their prompts, and one response length for all."""

    prompts: Sequence[int]
    response: int

    @property
    def lengths(self) -> list[int]:
        return [prompt + self.response for prompt in self.prompts]

    @property
    def squares(self) -> int:
        return sum(length**2 for length in self.lengths)

    @property
    def responses(self) -> int:
        """Response tokens in all."""
        return self.response * len(self.prompts)


def network(model: Any, *, freeze_layers: int = 0, adapters: bool = True) -> Network:
    """Count a transformers model (or a PEFT model's inner one). Of LoRA's matrices those count that learn, or none."""
    embeddings = {id(p) for part in model.modules() if isinstance(part, nn.Embedding) for p in part.parameters()}
    output = model.get_output_embeddings()
    head = None if output is None else output.weight
    below, above = Weights(), Weights()
    for name, weight in model.named_parameters():
        if weight.ndim != 2 or id(weight) in embeddings or weight is head:
            continue
        if "lora_" in name and not (adapters and weight.requires_grad):
            continue
        if _layer(name) < freeze_layers:
            below = _plus(below, weight)
        else:
            above = _plus(above, weight)
    config = model.config.get_text_config()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    attention = config.num_attention_heads * width
    return Network(
        backbone=Weights(learned=below.learned + above.learned, frozen=below.frozen + above.frozen),
        upper=above,
        head=Weights() if head is None else _plus(Weights(), head),
        attention=config.num_hidden_layers * attention,
        upper_attention=(config.num_hidden_layers - freeze_layers) * attention,
    )


def generation(net: Network, batch: Batch) -> int:
    """Prefill and decoding; the last token of an answer is drawn and not read again."""
    read = sum(length - 1 for length in batch.lengths)
    return net.backbone.forward * read + 2 * net.attention * batch.squares + net.head.forward * batch.responses


def scoring(net: Network, batch: Batch, *, head: bool) -> int:
    """A forward pass over whole sequences; with `head` the log-probs of the responses."""
    trunk = net.backbone.forward * sum(batch.lengths) + 2 * net.attention * batch.squares
    return trunk + (net.head.forward * batch.responses if head else 0)


def learning(net: Network, batch: Batch, *, epochs: int, head: bool) -> int:
    """Forward and backward passes of all epochs, of the layers that learning runs through."""
    trunk = net.upper.learning * sum(batch.lengths) + 6 * net.upper_attention * batch.squares
    return epochs * (trunk + (net.head.learning * batch.responses if head else 0))


def _plus(weights: Weights, weight: Any) -> Weights:
    n = weight.numel()
    if weight.requires_grad:
        return Weights(learned=weights.learned + n, frozen=weights.frozen)
    return Weights(learned=weights.learned, frozen=weights.frozen + n)


def _layer(name: str) -> float:
    """The number of the layer that a parameter belongs to; infinity if to none."""
    found = re.search(r"\.(?:layers|h|blocks)\.(\d+)\.", f".{name}")
    return int(found.group(1)) if found else float("inf")
