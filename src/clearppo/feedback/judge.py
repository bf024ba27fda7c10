"""反馈: the teacher marks. Scores and the distance from the reference become rewards, equations (1) and (2)."""

import math
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.batch import Feedback, Rollout
from clearppo.core.kl import kl
from clearppo.core.masks import kept, whiten
from clearppo.core.rewards import rewards_from_kl
from clearppo.errors import ConfigError, RewardError
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer, Scores, require_scored, rows_in_words

KLEstimator = Literal["k1", "k2", "k3", "full"]

MISSING_EOS = "missing_eos_penalty"


@torch.no_grad()
def judge(
    rollout: Rollout,
    scorer: Scorer,
    reference: Reference,
    *,
    kl_coef: float | int = 1.0,
    estimator: KLEstimator = "k1",
    missing_eos_penalty: float | int | None = None,
    whiten_rewards: bool = False,
) -> Feedback:
    """Mark every response.

        (1)  process_reward[i, j] = -kl_coef * kl[i, j]          k1: kl_coef * (ref_log_prob - old_log_prob)
        (2)  reward[i, j] = process_reward[i, j] + score[i] * [j is the last token of response i]

    `estimator` "full" takes the exact KL over the vocabulary, from the reference. `missing_eos_penalty` (reward units,
    0 or more) is subtracted from the score of a response that was cut at its length; it stands among the parts as a
    negative number. `whiten_rewards` divides all rewards by their standard deviation over this batch's tokens and keeps
    their mean. `parts` may hold NaN where a source did not apply. Masked cells of every result hold 0.

    Raises RewardError if a score is missing or not finite, ConfigError for a negative penalty.
    """
    scores, parts = _scores(rollout, scorer, missing_eos_penalty)
    mask = rollout.mask
    ref_log_probs = kept(reference.log_probs(rollout), mask)
    if estimator == "full":
        kl_tokens = kept(reference.full_kl(rollout), mask)
    else:
        kl_tokens = kl(kept(rollout.old_log_probs, mask), ref_log_probs, estimator)
    rewards = rewards_from_kl(scores, kl_tokens, mask, kl_coef)
    if whiten_rewards:
        rewards = whiten(rewards, mask, shift_mean=False)
    return Feedback(scores=scores, parts=parts, ref_log_probs=ref_log_probs, kl=kl_tokens, rewards=rewards)


def _scores(
    rollout: Rollout, scorer: Scorer, missing_eos_penalty: float | int | None
) -> tuple[Float[Tensor, " B"], Mapping[str, Float[Tensor, " B"]]]:
    scores = scorer(rollout)
    _check(scores, scorer, rollout)
    if missing_eos_penalty is None:
        return scores.total, scores.parts
    if not 0 <= missing_eos_penalty < math.inf:
        raise ConfigError(
            f"missing_eos_penalty = {missing_eos_penalty}; it is subtracted from the score and must be 0 or more. "
            f"Use --missing_eos_penalty 1."
        )
    penalty = torch.where(_unfinished(rollout), -float(missing_eos_penalty), 0.0).to(scores.total.dtype)
    return scores.total + penalty, {**scores.parts, MISSING_EOS: penalty}


def _unfinished(rollout: Rollout) -> Bool[Tensor, " B"]:
    # From the finish reason, not from a search for EOS: a custom stop token or string ends an answer as well.
    return torch.tensor([reason == "length" for reason in rollout.finish_reasons], device=rollout.responses.device)


def _check(scores: Scores, scorer: Scorer, rollout: Rollout) -> None:
    """A plug is not trusted: one score a response, and a finite one."""
    if scores.total.shape != (len(rollout),):
        raise RewardError(
            f"{', '.join(scorer.names)}: scores of shape {tuple(scores.total.shape)} for {len(rollout)} responses. "
            "Return one score a response."
        )
    require_scored(~scores.total.isnan(), rollout, scorer.names)
    infinite = (~scores.total.isfinite()).nonzero().flatten().tolist()
    if infinite:
        raise RewardError(
            f"the score is infinite for {rows_in_words(infinite, rollout.prompts)}. Return finite numbers."
        )
