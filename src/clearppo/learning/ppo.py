"""学习, second half: epochs x mini-batches x micro-batches of equations (5) to (9)."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from clearppo.batch import Experience, Stats
from clearppo.core.losses import actor_clipped, actor_loss, critic_clipped, critic_loss
from clearppo.core.masks import masked_sum
from clearppo.engines.base import Engine
from clearppo.errors import TrainingError
from clearppo.models.policy import Analysis, Policy


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss: actor + vf_coef * critic - entropy_coef * entropy. All clips None and vf_coef 0.1: equation (9)."""

    clip: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    clip_value: float | None = None
    vf_coef: float = 0.1
    entropy_coef: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often and in what portions an experience is learned from."""

    epochs: int = 4
    num_mini_batches: int = 1
    micro_batch_size: int = 16
    max_grad_norm: float | None = None
    early_stop_kl: float | None = None


def learn(
    policy: Policy,
    experience: Experience,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    *,
    objective: Objective,
    passes: Passes,
    generator: torch.Generator,
) -> Stats:
    """Update the policy from one experience. Gradients do not depend on the micro-batch size.

    Stats are summed over all epochs and mini-batches. Raises TrainingError if a gradient is not finite (that step is
    not taken). With `early_stop_kl`, the update ends before the first step whose mini-batch has a larger mean k2 of
    (old -> new) log-prob ratios, in nats a token.
    """
    stats = Stats.empty()
    parameters = [parameter for _, parameter in policy.trainable()]
    for epoch, rows in _mini_batches(len(experience), passes, generator):
        seen = _accumulate(policy, experience.select(rows), engine, objective, passes.micro_batch_size)
        if passes.early_stop_kl is not None and seen.mean("policy/approxkl_avg") > passes.early_stop_kl:
            optimiser.zero_grad(set_to_none=True)
            return stats + seen + Stats(sums={"early_stop": 1.0}, counts={"early_stop": 1.0})
        norm = engine.step(optimiser, parameters, passes.max_grad_norm)
        if not math.isfinite(norm):
            raise TrainingError(
                f"the gradient is not finite in epoch {epoch + 1} of this update (norm {norm}). The weights are those "
                "before it. Use a smaller --learning_rate, or --dtype float32 --bf16 false."
            )
        stats += seen + Stats(sums={"policy/grad_norm": norm}, counts={"policy/grad_norm": 1.0})
    return stats


def _accumulate(
    policy: Policy, mini_batch: Experience, engine: Engine, objective: Objective, micro_batch_size: int
) -> Stats:
    """Gradients of one mini-batch, micro-batch by micro-batch over its global token count, and what was measured."""
    seen, count = Stats.empty(), engine.sum(mini_batch.rollout.mask.sum())
    policy.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for micro in _micro_batches(mini_batch, micro_batch_size):
            rollout = micro.rollout
            analysis = policy.analyze(rollout.prompts, rollout.responses, rollout.mask, temperature=rollout.temperature)
            engine.backward(ppo_loss(analysis, micro, objective, count))
            seen += _measure(analysis, micro, objective)
    finally:
        policy.eval()
    return seen


def ppo_loss(analysis: Analysis, micro: Experience, objective: Objective, count: Tensor) -> Tensor:
    """Equation (9) and what the article leaves out, of one micro-batch, over the whole mini-batch's token count."""
    rollout = micro.rollout
    loss = actor_loss(
        micro.advantages,
        rollout.old_log_probs,
        analysis.log_probs,
        rollout.mask,
        count=count,
        clip=objective.clip,
        clip_high=objective.clip_high,
        dual_clip=objective.dual_clip,
    )
    if objective.vf_coef:
        loss = loss + objective.vf_coef * critic_loss(
            micro.returns, rollout.old_values, analysis.values, rollout.mask, count=count, clip=objective.clip_value
        )
    if objective.entropy_coef:
        loss = loss - objective.entropy_coef * masked_sum(analysis.entropy, rollout.mask) / count
    return loss


@torch.no_grad()
def _measure(analysis: Analysis, micro: Experience, objective: Objective) -> Stats:
    """Sums over response tokens of what dashboards show, under the names that they know."""
    rollout, mask = micro.rollout, micro.rollout.mask
    tokens = float(mask.sum())
    log_ratio = analysis.log_probs - rollout.old_log_probs
    ratio = log_ratio.exp()
    old = rollout.old_log_probs
    cells = {
        "loss/policy_avg": actor_loss(
            micro.advantages,
            old,
            analysis.log_probs,
            mask,
            count=1,
            clip=objective.clip,
            clip_high=objective.clip_high,
            dual_clip=objective.dual_clip,
        ),
        "loss/value_avg": critic_loss(
            micro.returns, rollout.old_values, analysis.values, mask, count=1, clip=objective.clip_value
        ),
        "policy/entropy_avg": masked_sum(analysis.entropy, mask),
        "policy/approxkl_avg": masked_sum(0.5 * log_ratio**2, mask),
        "val/ratio": masked_sum(ratio, mask),
        "val/ratio_squared": masked_sum(ratio**2, mask),
        "val/error": masked_sum((analysis.values - micro.returns) ** 2, mask),
    }
    if objective.clip is not None:
        clipped = actor_clipped(
            micro.advantages, old, analysis.log_probs, mask, clip=objective.clip, clip_high=objective.clip_high
        )
        cells["policy/clipfrac_avg"] = clipped.sum()
    if objective.clip_value is not None:
        clipped = critic_clipped(micro.returns, rollout.old_values, analysis.values, mask, clip=objective.clip_value)
        cells["val/clipfrac_avg"] = clipped.sum()
    return Stats(sums={name: float(cell) for name, cell in cells.items()}, counts=dict.fromkeys(cells, tokens))


def _mini_batches(count: int, passes: Passes, generator: torch.Generator) -> Iterator[tuple[int, list[int]]]:
    """A fresh permutation every epoch, in `num_mini_batches` equal portions."""
    size = count // passes.num_mini_batches
    for epoch in range(passes.epochs):
        order = torch.randperm(count, generator=generator).tolist()
        for start in range(0, size * passes.num_mini_batches, size):
            yield epoch, order[start : start + size]


def _micro_batches(mini_batch: Experience, size: int) -> Iterator[Experience]:
    """Portions that fit into memory, similar lengths together, so that little of them is padding."""
    rollout = mini_batch.rollout
    lengths = rollout.prompts.mask.sum(dim=1) + rollout.mask.sum(dim=1)
    order = torch.argsort(lengths, stable=True).tolist()
    for start in range(0, len(order), size):
        yield mini_batch.select(order[start : start + size])
