"""学习, second half: epochs x mini-batches x micro-batches of equations (5) to (9)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearppo.batch import Experience, Stats
from clearppo.core.kl import full_kl, kl
from clearppo.core.losses import actor_clipped, actor_loss, critic_clipped, critic_loss, kl_loss
from clearppo.core.masks import kept, masked_sum
from clearppo.engines.base import Engine
from clearppo.learning.optimiser import finite_step
from clearppo.learning.ptx import Ptx, accumulate_texts
from clearppo.models.policy import Analysis, FrozenReference, Policy

KLLossEstimator = Literal["k2", "k3", "full"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss: actor + vf_coef * critic - entropy_coef * entropy + kl_loss_coef * KL(policy || reference).

    All clips None and vf_coef 0.1: equation (9). With vf_coef 0 no critic learns, and none is measured.
    """

    clip: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    clip_value: float | None = None
    vf_coef: float = 0.1
    entropy_coef: float = 0.0
    kl_loss_coef: float = 0.0
    kl_loss_estimator: KLLossEstimator = "k3"


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
    reference: FrozenReference | None = None,
    ptx: Ptx | None = None,
    critic_only: bool = False,
) -> Stats:
    """Update the policy from one experience. Gradients do not depend on the micro-batch size.

    `reference` is needed for a full KL in the loss only. `ptx` mixes texts into every step. With `critic_only`
    (warm-up) only the critic's own weights learn, of a shared critic its layer; KL in the loss and ptx are left out.

    Stats are summed over all epochs and mini-batches. Raises TrainingError if a gradient is not finite (that step is
    not taken). With `early_stop_kl`, the update ends before the first step whose mini-batch has a larger mean k2 of
    (old -> new) log-prob ratios, in nats a token.
    """
    if critic_only:
        objective, ptx = replace(objective, kl_loss_coef=0.0), None
    stats = Stats.empty()
    with _frozen(policy.actor) if critic_only else contextlib.nullcontext():
        parameters = [parameter for _, parameter in policy.trainable()]
        for epoch, rows in _mini_batches(len(experience), passes, generator):
            mini_batch = experience.select(rows)
            seen = _accumulate(policy, mini_batch, engine, objective, passes.micro_batch_size, reference, ptx)
            if passes.early_stop_kl is not None and seen.mean("policy/approxkl_avg") > passes.early_stop_kl:
                optimiser.zero_grad(set_to_none=True)
                return stats + seen + Stats(sums={"early_stop": 1.0}, counts={"early_stop": 1.0})
            at = f" in epoch {epoch + 1} of this update"
            norm = finite_step(engine, optimiser, parameters, passes.max_grad_norm, at)
            stats += seen + Stats(sums={"policy/grad_norm": norm}, counts={"policy/grad_norm": 1.0})
    return stats


def _accumulate(
    policy: Policy,
    mini_batch: Experience,
    engine: Engine,
    objective: Objective,
    micro_batch_size: int,
    reference: FrozenReference | None,
    ptx: Ptx | None,
) -> Stats:
    """Gradients of one mini-batch, micro-batch by micro-batch over its global token count, and what was measured."""
    seen, count = Stats.empty(), engine.sum(mini_batch.rollout.mask.sum())
    share = ptx.share if ptx else 1.0
    policy.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for micro in _micro_batches(mini_batch, micro_batch_size):
            analysis, kl_tokens = _analyse(policy, micro, objective, reference)
            engine.backward(ppo_loss(analysis, micro, objective, count, kl_tokens, share))
            seen += _measure(analysis, micro, objective, kl_tokens)
        if ptx:
            n = len(mini_batch)
            seen += accumulate_texts(policy.actor, engine, ptx, n_answers=n, micro_batch_size=micro_batch_size)
    finally:
        policy.eval()
    return seen


def _analyse(
    policy: Policy, micro: Experience, objective: Objective, reference: FrozenReference | None
) -> tuple[Analysis, Tensor | None]:
    """What the live policy thinks of a micro-batch, and each token's KL from the reference where the loss has one."""
    rollout = micro.rollout
    batch, temperature = (rollout.prompts, rollout.responses, rollout.mask), rollout.temperature
    if not objective.kl_loss_coef:
        return policy.analyze(*batch, temperature=temperature), None
    if objective.kl_loss_estimator != "full":
        analysis = policy.analyze(*batch, temperature=temperature)
        ref_log_probs = kept(micro.ref_log_probs, rollout.mask)
        return analysis, kl(analysis.log_probs, ref_log_probs, objective.kl_loss_estimator)
    if reference is None:
        raise ValueError("kl_loss_estimator = 'full' compares whole distributions. Give learn the reference.")
    ref_logits = reference.logits(*batch)  # first, because it may switch the policy's own adapters off and on again
    analysis, logits = policy.analyze_with_logits(*batch, temperature=temperature)
    return analysis, full_kl(logits, ref_logits, temperature)


def ppo_loss(
    analysis: Analysis,
    micro: Experience,
    objective: Objective,
    count: Tensor,
    kl_tokens: Float[Tensor, "B T"] | None = None,
    share: float = 1.0,
) -> Float[Tensor, ""]:
    """Equation (9) and what the article leaves out, of one micro-batch, over the whole mini-batch's token count.

    `share` multiplies all but the critic's loss.
    """
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
    if objective.entropy_coef:
        loss = loss - objective.entropy_coef * masked_sum(analysis.entropy, rollout.mask) / count
    if kl_tokens is not None:
        loss = loss + objective.kl_loss_coef * kl_loss(kl_tokens, rollout.mask, count=count)
    loss = share * loss
    if objective.vf_coef:
        loss = loss + objective.vf_coef * critic_loss(
            micro.returns, rollout.old_values, analysis.values, rollout.mask, count=count, clip=objective.clip_value
        )
    return loss


@torch.no_grad()
def _measure(analysis: Analysis, micro: Experience, objective: Objective, kl_tokens: Tensor | None) -> Stats:
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
        "policy/entropy_avg": masked_sum(analysis.entropy, mask),
        "policy/approxkl_avg": masked_sum(0.5 * log_ratio**2, mask),
        "val/ratio": masked_sum(ratio, mask),
        "val/ratio_squared": masked_sum(ratio**2, mask),
    }
    if kl_tokens is not None:
        cells["loss/kl_avg"] = masked_sum(kl_tokens, mask)
    if objective.clip is not None:
        clipped = actor_clipped(
            micro.advantages, old, analysis.log_probs, mask, clip=objective.clip, clip_high=objective.clip_high
        )
        cells["policy/clipfrac_avg"] = clipped.sum()
    if objective.vf_coef:
        cells |= _measure_critic(analysis, micro, objective)
    return Stats(sums={name: float(cell) for name, cell in cells.items()}, counts=dict.fromkeys(cells, tokens))


def _measure_critic(analysis: Analysis, micro: Experience, objective: Objective) -> dict[str, Tensor]:
    returns, old, values, mask = micro.returns, micro.rollout.old_values, analysis.values, micro.rollout.mask
    cells = {
        "loss/value_avg": critic_loss(returns, old, values, mask, count=1, clip=objective.clip_value),
        "val/error": masked_sum((values - returns) ** 2, mask),
    }
    if objective.clip_value is not None:
        cells["val/clipfrac_avg"] = critic_clipped(returns, old, values, mask, clip=objective.clip_value).sum()
    return cells


@contextlib.contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """While this is open, the module's weights ask for no gradient."""
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


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
