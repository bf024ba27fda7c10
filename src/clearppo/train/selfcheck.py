"""Before the first step: the policy must agree with itself (ratio 1) and with its reference (KL 0)."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clearppo.batch import Prompts, Rollout
from clearppo.errors import TrainingError
from clearppo.feedback.reference import Reference
from clearppo.learning import Passes
from clearppo.models.policy import Policy, micro_batches
from clearppo.rollout import Sampler, sample

# In float32 two kernels differ by rounding, 1e-5 at most in a log-prob. In bfloat16 the same weights, in batches of
# another shape, differ by 0.003 in the mean and up to 0.3 in single tokens.
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
TOLERANCE_BF16 = 2e-2
N_PROMPTS = 8


@dataclass(frozen=True, kw_only=True)
class SelfCheck:
    """Mean absolute differences over response tokens, in nats; `tolerance` is what they were held to. `kl` is None
    where the policy has learned already."""

    ratio: float
    kl: float | None
    tolerance: float

    def __str__(self) -> str:
        if self.kl is None:
            return f"self-check passed: |log ratio| {self.ratio:.1e} nats a token (at most {self.tolerance:g})"
        return (
            f"self-check passed: |log ratio| {self.ratio:.1e} and |log p - log p_ref| {self.kl:.1e} nats a token "
            f"before the first step (both at most {self.tolerance:g})"
        )


def self_check(
    policy: Policy, reference: Reference | None, sampler: Sampler, batches: Iterator[Prompts], passes: Passes
) -> SelfCheck:
    """Sample a few answers to the first batch and read them again, once as learning will, in its micro-batches and with
    all that it keeps, and once as the reference; None: a policy that has learned already, and is not the reference any
    more.

    Raises TrainingError, with what it may mean, if they differ by more than rounding.
    """
    prompts = next(batches)
    rollout = sample(policy, prompts.select(range(min(len(prompts), N_PROMPTS))), sampler)
    tolerance = tolerance_of(policy)
    tokens = float(rollout.mask.sum())
    ratio = _read_again(policy, rollout, passes) / tokens
    kl = 0.0 if reference is None else _distance(reference.log_probs(rollout), rollout.old_log_probs) / tokens
    if not ratio <= tolerance:
        raise TrainingError(
            f"self-check failed: before the first step the ratio must be 1, but log-probs read again differ by "
            f"{ratio:.3g} nats a token (at most {tolerance:g}). The model is not deterministic here, or sampling and "
            "learning do not compute the same. Try --bf16 false, or --attn_implementation eager."
        )
    if not kl <= tolerance:
        raise TrainingError(
            f"self-check failed: before the first step the KL to the reference must be 0, but log-probs differ by "
            f"{kl:.3g} nats a token (at most {tolerance:g}). The reference is not the model that training starts from."
        )
    return SelfCheck(ratio=ratio, kl=None if reference is None else kl, tolerance=tolerance)


def tolerance_of(policy: Policy) -> float:
    """How far two readings of the same tokens may differ, in nats a token, in the policy's precision."""
    weight = policy.actor.causal_lm.get_input_embeddings().weight
    return TOLERANCE_BF16 if policy.actor.autocast else TOLERANCE.get(weight.dtype, TOLERANCE_BF16)


def _read_again(policy: Policy, rollout: Rollout, passes: Passes) -> float:
    """The sum of what the log-probs differ by from the old ones."""
    found = 0.0
    policy.train()  # transformers checkpoints activations in train mode only; every dropout is 0
    try:
        for rows, prompts, responses, mask in micro_batches(
            rollout.prompts, rollout.responses, rollout.mask, passes.micro_batch_size, passes.micro_batch_tokens
        ):
            analysis = policy.analyze(prompts, responses, mask, temperature=rollout.temperature)
            found += _distance(analysis.log_probs.detach(), rollout.old_log_probs[rows][:, : mask.shape[1]])
    finally:
        policy.eval()
    return found


def _distance(log_probs: torch.Tensor, others: torch.Tensor) -> float:
    return float((log_probs - others).abs().sum())
