"""Supervised fine-tuning: one optimiser step of imitating demonstrations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import ALONE, Division, Sequences, Stats, shares
from clearppo.core.losses import Count, sft_loss
from clearppo.engines.base import Engine
from clearppo.learning.examine import examine_texts
from clearppo.learning.faults import STRICT, Fault, Guard, Place, guarded_step
from clearppo.models.actor import Actor


def learn_demonstrations(
    actor: Actor,
    batch: Sequences,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    *,
    micro_batch_size: int | None,
    micro_batch_tokens: int | None = None,
    max_grad_norm: float | None,
    guard: Guard = STRICT,
) -> Stats:
    """One step on -sum(log p(token | what stands before it)) / n over the n tokens of `batch.loss_mask`, in nats.

    Every token weighs the same, whatever the length of its text, and the gradient does not depend on the micro-batch
    size (at most so many texts, and so many tokens with their padding): each micro-batch is divided by the whole
    batch's n. Stats: `loss` over tokens, `grad_norm` before clipping.

    If loss or gradient is not finite, no step is taken and `guard` decides; unless another is given, it raises
    NumbersError. Raises ValueError if there is nothing to learn.
    """
    if not batch.loss_mask.any():
        raise ValueError("no token of this batch is to be learned. Give rows with a completion.")
    bounds: dict[str, Any] = {"micro_batch_size": micro_batch_size, "micro_batch_tokens": micro_batch_tokens}
    actor.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        seen = accumulate(actor, batch, engine, **bounds)
    finally:
        actor.eval()

    def examine(what: str, of_gradient: Place | None) -> Fault:
        return Fault(what=what, place=examine_texts(actor, batch, of_gradient, **bounds), batch=batch, settings=bounds)

    named = [(name, parameter) for name, parameter in actor.named_parameters() if parameter.requires_grad]
    return guarded_step(engine, optimiser, named, max_grad_norm, seen=seen, guard=guard, examine=examine)


def accumulate(
    actor: Actor,
    batch: Sequences,
    engine: Engine,
    *,
    micro_batch_size: int | None,
    micro_batch_tokens: int | None = None,
    weight: float | int = 1.0,
) -> Stats:
    """Add this process's share of the gradient of `weight` * loss to what is there; no step. Stats: `loss` over all
    tokens, unweighted."""
    count = batch.loss_mask.sum()
    seen = list[Tensor]()
    for micro in _micro_batches(batch, micro_batch_size, micro_batch_tokens, engine):
        log_probs = actor.sequence_log_probs(micro)
        engine.backward(weight * _loss(log_probs, count))
        seen.append(log_probs.detach())
    return _measured(seen).over(engine)


@torch.no_grad()
def measure_demonstrations(
    actor: Actor,
    batch: Sequences,
    *,
    micro_batch_size: int | None,
    micro_batch_tokens: int | None = None,
    division: Division = ALONE,
) -> Stats:
    """The same `loss` without learning: summed nats, and the number of tokens. Its exponential is the perplexity."""
    parts = _micro_batches(batch, micro_batch_size, micro_batch_tokens, division)
    return _measured([actor.sequence_log_probs(micro) for micro in parts]).over(division)


def _loss(log_probs: Float[Tensor, " N"], count: Count) -> Float[Tensor, ""]:
    """core's loss of tokens that are already gathered, over `count`, the whole batch's number of them."""
    return sft_loss(log_probs[None], torch.ones_like(log_probs[None], dtype=torch.bool), count=count)


def _measured(parts: Sequence[Tensor]) -> Stats:
    """The loss of all micro-batches, in one transfer from the device."""
    sums = torch.stack([_loss(log_probs, 1) for log_probs in parts]).tolist()
    return Stats(sums={"loss": math.fsum(sums)}, counts={"loss": float(sum(map(len, parts)))})


def _micro_batches(batch: Sequences, size: int | None, tokens: int | None, division: Division) -> list[Sequences]:
    """This process's portions that fit into memory, similar lengths together, so that little of them is padding."""
    lengths = batch.mask.sum(dim=1).tolist()
    rows = shares(lengths, division, max_rows=size, max_tokens=tokens)
    return [batch.select(part) if counts else batch.select(part).silent() for part, counts in rows]
