"""Supervised fine-tuning: one optimiser step of imitating demonstrations."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from clearppo.batch import Sequences, Stats
from clearppo.core.losses import Count, sft_loss
from clearppo.engines.base import Engine
from clearppo.learning.optimiser import finite_step
from clearppo.models.actor import Actor


def learn_demonstrations(
    actor: Actor,
    batch: Sequences,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    *,
    micro_batch_size: int,
    max_grad_norm: float | None,
) -> Stats:
    """One step on -sum(log p(token | what stands before it)) / n over the n tokens of `batch.loss_mask`, in nats.

    Every token weighs the same, whatever the length of its text, and the gradient does not depend on the micro-batch
    size: each micro-batch is divided by the whole batch's n. Stats: `loss` over tokens, `grad_norm` before clipping.

    Raises TrainingError if the gradient is not finite (the step is not taken), ValueError if there is nothing to learn.
    """
    if not batch.loss_mask.any():
        raise ValueError("no token of this batch is to be learned. Give rows with a completion.")
    actor.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        seen = accumulate(actor, batch, engine, micro_batch_size=micro_batch_size)
    finally:
        actor.eval()
    learning = [parameter for parameter in actor.parameters() if parameter.requires_grad]
    norm = finite_step(engine, optimiser, learning, max_grad_norm)
    return seen + Stats(sums={"grad_norm": norm}, counts={"grad_norm": 1.0})


def accumulate(
    actor: Actor, batch: Sequences, engine: Engine, *, micro_batch_size: int, weight: float | int = 1.0
) -> Stats:
    """Add the gradient of `weight` * loss to what is there; no step. Stats: `loss` over tokens, unweighted."""
    seen, count = Stats.empty(), engine.sum(batch.loss_mask.sum())
    for micro in _micro_batches(batch, micro_batch_size):
        log_probs = actor.sequence_log_probs(micro)
        engine.backward(weight * _loss(log_probs, count))
        seen += _measured(log_probs)
    return seen


@torch.no_grad()
def measure_demonstrations(actor: Actor, batch: Sequences, *, micro_batch_size: int) -> Stats:
    """The same `loss` without learning: summed nats, and the number of tokens. Its exponential is the perplexity."""
    seen = Stats.empty()
    for micro in _micro_batches(batch, micro_batch_size):
        seen += _measured(actor.sequence_log_probs(micro))
    return seen


def _loss(log_probs: Float[Tensor, " N"], count: Count) -> Float[Tensor, ""]:
    """core's loss of tokens that are already gathered, over `count`, the whole batch's number of them."""
    return sft_loss(log_probs[None], torch.ones_like(log_probs[None], dtype=torch.bool), count=count)


def _measured(log_probs: Float[Tensor, " N"]) -> Stats:
    tokens = log_probs.shape[0]
    return Stats(sums={"loss": float(_loss(log_probs.detach(), 1))}, counts={"loss": float(tokens)})


def _micro_batches(batch: Sequences, size: int) -> Iterator[Sequences]:
    """Portions that fit into memory, similar lengths together, so that little of them is padding."""
    order = torch.argsort(batch.mask.sum(dim=1), stable=True).tolist()
    for start in range(0, len(order), size):
        yield batch.select(order[start : start + size])
