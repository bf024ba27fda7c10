"""Every number in metrics.jsonl and timings.jsonl: its name, unit and formula stand at the function that computes it.

Sums run over response tokens t (masked cells are never read), i over the answers of the batch. Names are those that
dashboards of this ecosystem know.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from clearppo.batch import Experience, Feedback, Rollout, Stats
from clearppo.core.masks import masked_mean, masked_sum, masked_var
from clearppo.learning.faults import SKIPPED
from clearppo.train.evaluation import repetition_rate
from clearppo.train.registry import COMMUNICATION, MEMORY, SECONDS, Registry


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One iteration, finished. `memory` is the most that each phase took, in GiB, where that is known; `staleness`, how
    many updates the policy had seen between drawing the answers and learning from them."""

    rollout: Rollout
    feedback: Feedback
    experience: Experience
    stats: Stats
    kl_coef: float
    learning_rate: float
    episode: int
    seconds: Mapping[str, float]
    memory: Mapping[str, float] = field(default_factory=dict)
    staleness: int = 0
    communication: Mapping[str, float] = field(default_factory=dict)

    @property
    def n_answers(self) -> int:
        return len(self.rollout)


REGISTRY: Registry[Measured] = Registry()
metric = REGISTRY.metric


def measure(measured: Measured) -> dict[str, float]:
    """All registered metrics of an iteration, and one mean and standard deviation for each source of the score."""
    row = REGISTRY.measure(measured)
    for name, part in measured.feedback.parts.items():
        given = part[~torch.isnan(part)]  # NaN: this source does not speak about that row
        if len(given):
            row[f"rewards/{name}/mean"] = float(given.mean())
            row[f"rewards/{name}/std"] = float(given.std(correction=0))
    row.update({f"{SECONDS}{phase}": seconds for phase, seconds in measured.seconds.items()})
    row.update({f"{MEMORY}{phase}": taken for phase, taken in measured.memory.items()})
    row.update({f"{COMMUNICATION}{phase}": seconds for phase, seconds in measured.communication.items()})
    return row


def _a_response(measured: Measured, cells: torch.Tensor) -> float:
    return float(masked_sum(cells, measured.rollout.mask)) / measured.n_answers


@metric("episode", "answers")
def episode(m: Measured) -> float:
    """Answers sampled since the start of the run."""
    return float(m.episode)


@metric("objective/scores", "score")
def scores(m: Measured) -> float:
    """mean_i score_i: what the reward sources gave in sum, after scaling, clipping and penalties."""
    return float(m.feedback.scores[m.feedback.scored].mean())


@metric("objective/raw_scores", "score")
def raw_scores(m: Measured) -> float:
    """mean_i of what the reward sources gave in sum, before any scaling, clipping or penalty."""
    return float(m.feedback.raw_scores[m.feedback.scored].mean())


@metric("reward_std", "score")
def reward_std(m: Measured) -> float:
    """Standard deviation over i of score_i (population)."""
    return float(m.feedback.scores[m.feedback.scored].std(correction=0))


@metric("rewards/dropped", "answers")
def dropped(m: Measured) -> float | None:
    """Answers that were left out of the update because they, or with RLOO and GRPO another answer to their prompt, have
    no score. Absent where there is none. All other means of scores, returns and losses go over those that stayed."""
    return float(m.n_answers - len(m.experience)) if len(m.experience) < m.n_answers else None


@metric("objective/kl", "nats per response")
def kl(m: Measured) -> float:
    """mean_i sum_t KL_it: the chosen estimator of KL(policy || reference), when the answers were sampled."""
    return _a_response(m, m.feedback.kl)


@metric("objective/kl_coef", "score per nat")
def kl_coef(m: Measured) -> float:
    """The coefficient that this batch's rewards used."""
    return m.kl_coef


@metric("objective/entropy", "nats per response")
def entropy(m: Measured) -> float:
    """mean_i sum_t -old_log_prob_it: the sampled estimate of an answer's entropy."""
    return _a_response(m, -m.rollout.old_log_probs)


@metric("objective/non_score_reward", "score")
def non_score_reward(m: Measured) -> float:
    """mean_i sum_t -kl_coef * KL_it: equation (1), summed over an answer."""
    return -m.kl_coef * kl(m)


@metric("objective/rlhf_reward", "score")
def rlhf_reward(m: Measured) -> float:
    """objective/scores + objective/non_score_reward: what PPO maximises."""
    return scores(m) + non_score_reward(m)


@metric("loss/policy_avg", "1")
def policy_loss(m: Measured) -> float | None:
    """Equations (6)/(7) (clipped if asked for), mean over tokens, epochs and mini-batches. Absent where no step was
    taken (faults/skipped_steps), as is all else that is measured in learning."""
    return _mean_or_none(m, "loss/policy_avg")


@metric("loss/value_avg", "score squared")
def value_loss(m: Measured) -> float | None:
    """Equation (8) (clipped if asked for), mean over tokens, epochs and mini-batches; before vf_coef. Absent without a
    critic that learns, as are all metrics of one."""
    return _mean_or_none(m, "loss/value_avg")


@metric("loss/kl_avg", "nats per token")
def kl_loss(m: Measured) -> float | None:
    """The KL inside the loss, --kl_loss_estimator, mean over tokens, epochs and mini-batches; before kl_loss_coef."""
    return _mean_or_none(m, "loss/kl_avg")


@metric("loss/ptx_avg", "nats per token")
def ptx_loss(m: Measured) -> float | None:
    """PPO-ptx: mean -log p(token | text before it) over the learned tokens of all texts; before ptx_coef."""
    return _mean_or_none(m, "loss/ptx_avg")


@metric("policy/approxkl_avg", "nats per token")
def approxkl(m: Measured) -> float | None:
    """mean 1/2 (log_prob - old_log_prob)^2 over tokens, epochs and mini-batches: how far the update moved."""
    return _mean_or_none(m, "policy/approxkl_avg")


@metric("policy/clipfrac_avg", "share of tokens")
def policy_clipfrac(m: Measured) -> float | None:
    """Share of tokens whose clipped term is strictly the larger loss. Absent without --cliprange."""
    return _mean_or_none(m, "policy/clipfrac_avg")


@metric("policy/entropy_avg", "nats per token")
def policy_entropy(m: Measured) -> float | None:
    """mean of the exact entropy of the next token's distribution at the sampling temperature, during learning."""
    return _mean_or_none(m, "policy/entropy_avg")


@metric("policy/grad_norm", "1")
def grad_norm(m: Measured) -> float | None:
    """Global gradient norm before clipping, mean over optimiser steps."""
    return _mean_or_none(m, "policy/grad_norm")


@metric("policy/early_stop", "yes or no")
def early_stop(m: Measured) -> float:
    """1 if --early_stop_kl ended this update before its last step, else 0."""
    return m.stats.sums.get("early_stop", 0.0)


@metric("faults/skipped_steps", "steps")
def skipped_steps(m: Measured) -> float:
    """Optimiser steps of this iteration that were not taken, for loss or gradient was not finite (--max_bad_steps)."""
    return m.stats.sums.get(SKIPPED, 0.0)


@metric("val/clipfrac_avg", "share of tokens")
def value_clipfrac(m: Measured) -> float | None:
    """Share of tokens whose clipped value error is strictly the larger. Absent without --cliprange_value."""
    return _mean_or_none(m, "val/clipfrac_avg")


@metric("val/ratio", "1")
def ratio(m: Measured) -> float | None:
    """mean exp(log_prob - old_log_prob) over tokens, epochs and mini-batches; 1 on the first step."""
    return _mean_or_none(m, "val/ratio")


@metric("val/ratio_var", "1")
def ratio_var(m: Measured) -> float | None:
    """Variance of exp(log_prob - old_log_prob) over tokens, epochs and mini-batches."""
    if (mean := ratio(m)) is None:
        return None
    return max(m.stats.mean("val/ratio_squared") - mean**2, 0.0)


@metric("val/error", "score squared")
def value_error(m: Measured) -> float | None:
    """mean (value - return)^2 over tokens, epochs and mini-batches, with the values during learning."""
    return _mean_or_none(m, "val/error")


@metric("val/mean", "score")
def value_mean(m: Measured) -> float | None:
    """mean old_value over tokens."""
    if value_error(m) is None:
        return None
    return float(masked_mean(m.experience.rollout.old_values, m.experience.rollout.mask))


@metric("returns/mean", "score")
def returns_mean(m: Measured) -> float:
    """mean return over tokens: equation (3), or the critic's target."""
    return float(masked_mean(m.experience.returns, m.experience.rollout.mask))


@metric("returns/var", "score squared")
def returns_var(m: Measured) -> float:
    """Variance of the return over tokens."""
    return float(masked_var(m.experience.returns, m.experience.rollout.mask))


@metric("critic/vf_explained_var", "share")
def explained_variance(m: Measured) -> float | None:
    """1 - mean (old_value - return)^2 / var(return): 1 = the critic knows, 0 = a constant would do as well."""
    variance = returns_var(m)
    if value_error(m) is None or variance == 0:
        return None
    kept = m.experience.rollout
    return 1.0 - float(masked_mean((kept.old_values - m.experience.returns) ** 2, kept.mask)) / variance


@metric("completions/mean_length", "tokens")
def mean_length(m: Measured) -> float:
    """mean_i of the number of response tokens, the ending token included."""
    return float(m.rollout.mask.sum()) / m.n_answers


@metric("completions/clipped_ratio", "share of answers")
def clipped_ratio(m: Measured) -> float:
    """Share of answers that were cut at --response_length instead of ending."""
    return m.rollout.finish_reasons.count("length") / m.n_answers


@metric("completions/repetition", "share of 4-grams")
def repetition(m: Measured) -> float:
    """Share of 4-grams of tokens that occurred before in the same answer, over all answers."""
    lengths = m.rollout.mask.sum(dim=1).tolist()
    return repetition_rate([row[:n] for row, n in zip(m.rollout.responses.tolist(), lengths, strict=True)])


@metric("val/num_eos_tokens", "answers")
def num_eos_tokens(m: Measured) -> float:
    """Number of answers that ended with a stop token or stop string."""
    return float(m.rollout.finish_reasons.count("stop"))


@metric("sampling/staleness", "updates")
def staleness(m: Measured) -> float | None:
    """Iterations that the policy has learned in since the weights that drew the answers: 1 where answers are drawn
    ahead. Absent where the present policy drew them."""
    return float(m.staleness) if m.staleness > 0 else None


@metric("sampling/log_prob_difference", "nats per token")
def log_prob_difference(m: Measured) -> float | None:
    """mean |sampler_log_prob - old_log_prob| of the loss: how far sampling and learning disagree about the same
    weights."""
    return _mean_or_none(m, "sampling/log_prob_difference")


@metric("sampling/importance_weight", "1")
def importance_weight(m: Measured) -> float | None:
    """mean min(p_old / p_sampler, cap) over tokens. Absent without --importance_cap."""
    return _mean_or_none(m, "sampling/importance_weight")


@metric("sampling/importance_capped", "share of tokens")
def importance_capped(m: Measured) -> float | None:
    """Share of tokens whose weight is the cap. Absent without --importance_cap."""
    return _mean_or_none(m, "sampling/importance_capped")


@metric("lr", "1")
def learning_rate(m: Measured) -> float:
    """The actor's learning rate in this update (without effect while the critic warms up)."""
    return m.learning_rate


@metric("eps", "answers per second", clock=True)
def answers_per_second(m: Measured) -> float:
    """Answers of this iteration / its seconds."""
    return m.n_answers / max(sum(m.seconds.values()), 1e-9)


@metric("tokens_per_second", "tokens per second", clock=True)
def tokens_per_second(m: Measured) -> float:
    """Response tokens of this iteration / its seconds (sampling, feedback and learning together)."""
    return float(m.rollout.mask.sum()) / max(sum(m.seconds.values()), 1e-9)


def _mean_or_none(m: Measured, name: str) -> float | None:
    return m.stats.mean(name) if m.stats.counts.get(name) else None
