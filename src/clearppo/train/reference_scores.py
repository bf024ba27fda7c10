"""What the start policy's answers score, so that every later score is told in their mean and standard deviation."""

from collections.abc import Iterator

import torch

from clearppo.batch import ALONE, Division, Prompts
from clearppo.core.normalise import FixedMoments
from clearppo.feedback import judge
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, Truncation, sample

N_ANSWERS = 256  # lm-human-preferences' normalize_samples: the standard deviation is then known to 4 % or so


def reference_moments(
    policy: Policy,
    prompt_batches: Iterator[Prompts],
    sampler: Sampler,
    scorer: Scorer,
    reference: Reference,
    *,
    truncation: Truncation | None,
    micro_batch_size: int,
    micro_batch_tokens: int | None = None,
    division: Division = ALONE,
) -> tuple[FixedMoments, int]:
    """Moments of the scores of at least 256 answers, in whole batches, or of all batches that a short run has.

    Source: lm-human-preferences (train_reward.py:162-168), which scales its reward model so before the policy is
    trained. Returns also how many answers there were. Raises RewardError as `judge` does.
    """
    scores: list[torch.Tensor] = []
    while sum(map(len, scores)) < N_ANSWERS and (prompts := next(prompt_batches, None)) is not None:
        rollout = sample(
            policy,
            prompts,
            sampler,
            old_log_probs="sampler",  # only the scores are looked at
            micro_batch_size=micro_batch_size,
            micro_batch_tokens=micro_batch_tokens,
            truncation=truncation,
            division=division,
        )
        feedback = judge(rollout, scorer, reference, kl_coef=0.0)
        scores.append(feedback.raw_scores[feedback.scored])
    seen = torch.cat(scores)
    return FixedMoments.of(seen), len(seen)
