"""学习, second half: epochs x mini-batches x micro-batches of equations (5) to (9)."""

import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clearppo.batch import Division, Experience, Stats, shares
from clearppo.core.kl import kl
from clearppo.core.losses import (
    actor_clipped,
    actor_loss,
    critic_clipped,
    critic_loss,
    importance_weights,
    kl_loss,
)
from clearppo.core.masks import kept, masked_sum
from clearppo.engines.base import Engine
from clearppo.learning.examine import examine_answers
from clearppo.learning.faults import STRICT, Fault, Guard, Place, guarded_step
from clearppo.learning.ptx import Ptx, accumulate_texts
from clearppo.learning.watch import Look, Watch
from clearppo.models.actor import SeparateCritic
from clearppo.models.layout import Layout, lay_out
from clearppo.models.policy import Analysis, FrozenReference, Policy

KLLossEstimator = Literal["k2", "k3", "full"]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss: actor + vf_coef * critic - entropy_coef * entropy + kl_loss_coef * KL(policy || reference).

    All clips None and vf_coef 0.1: equation (9). With vf_coef 0 no critic learns, and none is measured.
    `importance_cap` weighs the actor's loss with core.losses.importance_weights, of each token or of the whole answer.
    """

    clip: float | None = None
    clip_high: float | None = None
    dual_clip: float | None = None
    importance_cap: float | None = None
    importance_level: Literal["token", "sequence"] = "token"
    clip_value: float | None = None
    vf_coef: float = 0.1
    entropy_coef: float = 0.0
    kl_loss_coef: float = 0.0
    kl_loss_estimator: KLLossEstimator = "k3"


@dataclass(frozen=True, kw_only=True)
class Passes:
    """How often and in what portions an experience is learned from.

    A micro-batch has at most `micro_batch_size` rows, and at most `micro_batch_tokens` tokens with its padding.
    With `first_is_old` the old log-probs and values of the loss are those of the learning pass itself: the ratio is
    exactly 1, and nothing had to be read before. Raises ValueError for it if there is more than one step: the second
    would need what the first one saw.
    """

    epochs: int = 4
    num_mini_batches: int = 1
    micro_batch_size: int = 16
    micro_batch_tokens: int | None = None
    max_grad_norm: float | None = None
    early_stop_kl: float | None = None
    first_is_old: bool = False

    def __post_init__(self) -> None:
        if self.first_is_old and self.epochs * self.num_mini_batches != 1:
            raise ValueError(
                f"first_is_old: of {self.epochs} epochs x {self.num_mini_batches} mini-batches only the first step "
                "sees the old policy. Use 1 x 1, or give the rollout old_log_probs of the learner."
            )

    @property
    def portions(self) -> dict[str, Any]:
        """The bounds of a micro-batch, as every function that reads answers in portions takes them."""
        return {"micro_batch_size": self.micro_batch_size, "micro_batch_tokens": self.micro_batch_tokens}


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
    guard: Guard = STRICT,
    watch: Watch | None = None,
) -> Stats:
    """Update the policy from one experience. Gradients do not depend on the micro-batch size.

    `reference` is needed for a full KL in the loss only. `ptx` mixes texts into every step. With `critic_only`
    (warm-up) only the critic's own weights learn, of a shared critic its layer; KL in the loss and ptx are left out.
    `watch` is shown every micro-batch.

    Stats are summed over all epochs and mini-batches whose step was taken; one is not where its loss or gradient is not
    finite: then `guard` decides, which raises NumbersError at once unless another is given. With `early_stop_kl`, the
    update ends before the first step whose mini-batch has a larger mean k2 of (old -> new) log-prob ratios, in nats a
    token.
    """
    if critic_only:
        objective, ptx = replace(objective, kl_loss_coef=0.0), None
    stats = Stats.empty()
    with _frozen(policy.actor) if critic_only else contextlib.nullcontext():
        named = policy.trainable()
        for epoch, rows in _mini_batches(len(experience), passes, generator):
            mini_batch = experience.select(rows)
            look = Look(watch, engine, epoch, rows)
            seen = _accumulate(policy, mini_batch, engine, objective, passes, reference, ptx, look)
            if passes.early_stop_kl is not None and passes.early_stop_kl < seen.mean("policy/approxkl_avg") < math.inf:
                optimiser.zero_grad(set_to_none=True)
                return stats + seen + Stats(sums={"early_stop": 1.0}, counts={"early_stop": 1.0})
            examine = partial(_examine, policy, mini_batch, objective, passes, ptx is not None, epoch)
            stats += guarded_step(
                engine, optimiser, named, passes.max_grad_norm, seen=seen, guard=guard, examine=examine,
                norm="policy/grad_norm",
            )  # fmt: skip
    return stats


def _examine(
    policy: Policy,
    mini_batch: Experience,
    objective: Objective,
    passes: Passes,
    texts: bool,
    epoch: int,
    what: str,
    of_gradient: Place | None,
) -> Fault:
    """The fault of a mini-batch that cannot be learned from."""
    return Fault(
        what=what,
        when=f" in epoch {epoch + 1} of this update",
        place=examine_answers(policy, mini_batch, of_gradient, texts=texts, **passes.portions),
        batch=mini_batch,
        settings={"objective": asdict(objective), "passes": asdict(passes)},
    )


def _accumulate(
    policy: Policy,
    mini_batch: Experience,
    engine: Engine,
    objective: Objective,
    passes: Passes,
    reference: FrozenReference | None,
    ptx: Ptx | None,
    look: Look,
) -> Stats:
    """This process's share of the gradients of one mini-batch, micro-batch by micro-batch over the token count of the
    whole; and what all have measured."""
    count = mini_batch.rollout.mask.sum()
    share = ptx.share if ptx else 1.0
    measured = list[Mapping[str, Tensor]]()
    policy.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for rows, micro, texts in _micro_batches(mini_batch, passes, engine):
            values = _learn_values(policy, micro, texts, engine, objective, passes, count)
            analysis, kl_tokens = _analyse(policy, micro, texts, objective, reference, values)
            if passes.first_is_old:
                micro = _as_seen_by(analysis, micro)
            loss = ppo_loss(analysis, micro, objective, count, kl_tokens, share)
            if loss.requires_grad:  # not where only a separate critic learns: it has learned
                engine.backward(loss)
            measured.append(_measure(analysis, micro, objective, kl_tokens))
            look.show(rows, analysis.log_probs, micro.rollout.old_log_probs, micro.rollout.mask)
        look.done(mini_batch.rollout.mask)
        seen = _summed(measured).over(engine)
        if ptx:
            seen += accumulate_texts(policy.actor, engine, ptx, n_answers=len(mini_batch), **passes.portions)
    finally:
        policy.eval()
    return seen


def _learn_values(
    policy: Policy,
    micro: Experience,
    texts: Layout,
    engine: Engine,
    objective: Objective,
    passes: Passes,
    count: Tensor,
) -> Tensor | None:
    """The gradients of a separate critic, whose part of the loss shares nothing with the actor's: so what the one
    network keeps for its backward pass is gone before the other begins. Its values, as constants; None: it is shared.
    """
    if not isinstance(policy.critic, SeparateCritic) or not objective.vf_coef:
        return None
    values = texts.spread(policy.critic(texts))
    constant = values.detach()
    old = constant if passes.first_is_old else micro.rollout.old_values
    engine.backward(_value_loss(values, old, micro, objective, count))
    return constant


def _analyse(
    policy: Policy,
    micro: Experience,
    texts: Layout,
    objective: Objective,
    reference: FrozenReference | None,
    values: Tensor | None,
) -> tuple[Analysis, Tensor | None]:
    """What the live policy thinks of a micro-batch, and each token's KL from the reference where the loss has one."""
    temperature = micro.rollout.temperature
    if not objective.kl_loss_coef:
        return policy.read(texts, temperature=temperature, values=values), None
    if objective.kl_loss_estimator != "full":
        analysis = policy.read(texts, temperature=temperature, values=values)
        ref_log_probs = kept(micro.ref_log_probs, micro.rollout.mask)
        return analysis, kl(analysis.log_probs, ref_log_probs, objective.kl_loss_estimator)
    if reference is None:
        raise ValueError("kl_loss_estimator = 'full' compares whole distributions. Give learn the reference.")
    return policy.read_with_kl(texts, reference, temperature=temperature, values=values)


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
        weights=_weights(micro, objective),
    )
    if objective.entropy_coef:
        loss = loss - objective.entropy_coef * masked_sum(analysis.entropy, rollout.mask) / count
    if kl_tokens is not None:
        loss = loss + objective.kl_loss_coef * kl_loss(kl_tokens, rollout.mask, count=count)
    loss = share * loss
    if objective.vf_coef:
        loss = loss + _value_loss(analysis.values, rollout.old_values, micro, objective, count)
    return loss


def _value_loss(values: Tensor, old_values: Tensor, micro: Experience, objective: Objective, count: Tensor) -> Tensor:
    """The critic's part of the loss."""
    mask = micro.rollout.mask
    return objective.vf_coef * critic_loss(
        micro.returns, old_values, values, mask, count=count, clip=objective.clip_value
    )


def _as_seen_by(analysis: Analysis, micro: Experience) -> Experience:
    """The micro-batch with what the learning pass sees in the place of the old numbers, as constants."""
    log_probs, values = analysis.log_probs.detach(), analysis.values.detach()
    return replace(micro, rollout=replace(micro.rollout, old_log_probs=log_probs, old_values=values))


def _weights(micro: Experience, objective: Objective) -> Tensor | None:
    if objective.importance_cap is None:
        return None
    rollout = micro.rollout
    return importance_weights(
        rollout.old_log_probs,
        rollout.sampler_log_probs,
        rollout.mask,
        objective.importance_cap,
        objective.importance_level,
    )


@torch.no_grad()
def _measure(
    analysis: Analysis, micro: Experience, objective: Objective, kl_tokens: Tensor | None
) -> dict[str, Tensor]:
    """Sums over response tokens of what dashboards show, under the names that they know, and how many `tokens` there
    are. They stay on the device: the host waits for them once a mini-batch, in `_summed`."""
    rollout, mask = micro.rollout, micro.rollout.mask
    log_ratio = analysis.log_probs - rollout.old_log_probs
    ratio = log_ratio.exp()
    old, weights = rollout.old_log_probs, _weights(micro, objective)
    cells = {
        "tokens": mask.sum(),
        "loss/policy_avg": actor_loss(
            micro.advantages,
            old,
            analysis.log_probs,
            mask,
            count=1,
            clip=objective.clip,
            clip_high=objective.clip_high,
            dual_clip=objective.dual_clip,
            weights=weights,
        ),
        "policy/entropy_avg": masked_sum(analysis.entropy, mask),
        "policy/approxkl_avg": masked_sum(0.5 * log_ratio**2, mask),
        "val/ratio": masked_sum(ratio, mask),
        "val/ratio_squared": masked_sum(ratio**2, mask),
        "sampling/log_prob_difference": masked_sum((rollout.sampler_log_probs - old).abs(), mask),
    }
    if weights is not None and (cap := objective.importance_cap) is not None:
        cells["sampling/importance_weight"] = weights.sum()
        cells["sampling/importance_capped"] = (weights >= cap).sum()
    if kl_tokens is not None:
        cells["loss/kl_avg"] = masked_sum(kl_tokens, mask)
    if objective.clip is not None:
        clipped = actor_clipped(
            micro.advantages, old, analysis.log_probs, mask, clip=objective.clip, clip_high=objective.clip_high
        )
        cells["policy/clipfrac_avg"] = clipped.sum()
    if objective.vf_coef:
        cells |= _measure_critic(analysis, micro, objective)
    return cells


def _summed(measured: Sequence[Mapping[str, Tensor]]) -> Stats:
    """The sums of all micro-batches, each over the tokens of all; one transfer from the device."""
    names = [name for name in measured[0] if name != "tokens"]
    dtype = measured[0]["val/ratio"].dtype
    table = torch.stack([torch.stack([cells[name].to(dtype) for name in ("tokens", *names)]) for cells in measured])
    tokens, *sums = (math.fsum(column) for column in zip(*table.tolist(), strict=True))
    return Stats(sums=dict(zip(names, sums, strict=True)), counts=dict.fromkeys(names, tokens))


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
    """A fresh permutation every epoch, in `num_mini_batches` portions, equal but for answers that were left out."""
    n = min(passes.num_mini_batches, count)
    bounds = [count * i // n for i in range(n + 1)]
    for epoch in range(passes.epochs):
        order = torch.randperm(count, generator=generator).tolist()
        for start, end in itertools.pairwise(bounds):
            yield epoch, order[start:end]


def _micro_batches(
    mini_batch: Experience, passes: Passes, division: Division
) -> list[tuple[list[int], Experience, Layout]]:
    """This process's portions that fit into memory, similar lengths together, so that little of them is padding: the
    numbers of their rows, what they are, and their texts. What is read for company only has no rows and no token.

    All are cut and laid out before the first is learned from: for that the host waits for the device, and then not
    again before the step.
    """
    rollout = mini_batch.rollout
    lengths = (rollout.prompts.mask.sum(dim=1) + rollout.mask.sum(dim=1)).tolist()
    rows = shares(lengths, division, max_rows=passes.micro_batch_size, max_tokens=passes.micro_batch_tokens)
    parts = [(r, mini_batch.select(r)) if counts else ([], mini_batch.select(r).silent()) for r, counts in rows]
    return [(r, part, lay_out(part.rollout.prompts, part.rollout.responses, part.rollout.mask)) for r, part in parts]
