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
from clearppo.core.normalise import ScoreScaling
from clearppo.core.rewards import rewards_from_kl
from clearppo.errors import ConfigError, RewardError, ScoreError
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer, Scores, require_scored, rows_in_words

KLEstimator = Literal["k1", "k2", "k3", "full"]

MISSING_EOS = "missing_eos_penalty"
MISSING_EOS_SCORE = "missing_eos_score"


@torch.no_grad()
def judge(
    rollout: Rollout,
    scorer: Scorer,
    reference: Reference,
    *,
    kl_coef: float | int = 1.0,
    estimator: KLEstimator = "k1",
    missing_eos_penalty: float | int | None = None,
    missing_eos_score: float | int | None = None,
    scaling: ScoreScaling | None = None,
    score_clip: float | int | None = None,
    whiten_rewards: bool = False,
    unbiased_whitening: bool = False,
) -> Feedback:
    """Mark every response.

        (1)  process_reward[i, j] = -kl_coef * kl[i, j]          k1: kl_coef * (ref_log_prob - old_log_prob)
        (2)  reward[i, j] = process_reward[i, j] + score[i] * [j is the last token of response i]

    `estimator` "full" takes the exact KL over the vocabulary, from the reference. `parts` may hold NaN where a source
    did not apply. Masked cells of every result hold 0. What the scorer gave, `raw_scores`, becomes `scores` in this
    order:

    - `scaling` brings it to one scale; a running one counts this batch first, and the caller keeps
      `scaling.updated(feedback.raw_scores)` for the next.
    - `score_clip` (in units after scaling) cuts it to -score_clip..score_clip.
    - A response that was cut at its length is fined: `missing_eos_penalty` (0 or more) is subtracted from its score, or
      `missing_eos_score` takes the score's place. Both are in units after scaling. They stand among the parts, the
      penalty as a negative number (0 for finished responses), the score as itself (NaN for finished ones).

    A row that the scorer calls missing keeps NaN for its score and gets no reward; it has no part in the scaling and
    the whitening. Its KL is measured like any other.

    `whiten_rewards` divides all rewards by their standard deviation over this batch's tokens (population variance, or
    over n - 1 with `unbiased_whitening`) and keeps their mean.

    Raises RewardError if a score is absent or not finite, or all are missing; ConfigError for a penalty, score or clip
    out of range, and for a missing_eos_penalty beside a missing_eos_score.
    """
    _check_options(missing_eos_penalty, missing_eos_score, score_clip)
    given = scorer(rollout)
    _check(given, scorer, rollout)
    scored = ~given.total.isnan()
    scores = given.total if scaling is None else scaling.updated(given.total[scored]).scaled(given.total)
    if score_clip is not None:
        scores = scores.clamp(-score_clip, score_clip)
    scores, fines = _fined(scores, rollout, missing_eos_penalty, missing_eos_score)
    scores = torch.where(scored, scores, math.nan)
    mask = rollout.mask
    ref_log_probs = kept(reference.log_probs(rollout), mask)
    if estimator == "full":
        kl_tokens = kept(reference.full_kl(rollout), mask)
    else:
        kl_tokens = kl(kept(rollout.old_log_probs, mask), ref_log_probs, estimator)
    earning = mask & scored.unsqueeze(1)
    rewards = rewards_from_kl(scores, kl_tokens, earning, kl_coef)
    if whiten_rewards:
        rewards = whiten(rewards, earning, shift_mean=False, unbiased=unbiased_whitening)
    return Feedback(
        scores=scores,
        raw_scores=given.total,
        parts={**given.parts, **fines},
        ref_log_probs=ref_log_probs,
        kl=kl_tokens,
        rewards=rewards,
    )


def _fined(
    scores: Float[Tensor, " B"], rollout: Rollout, penalty: float | int | None, instead: float | int | None
) -> tuple[Float[Tensor, " B"], Mapping[str, Float[Tensor, " B"]]]:
    """Scores with unfinished responses fined, and the part that the fine has in them."""
    unfinished = _unfinished(rollout)
    if penalty is not None:
        fine = torch.where(unfinished, -float(penalty), 0.0).to(scores.dtype)
        return scores + fine, {MISSING_EOS: fine}
    if instead is not None:
        score = torch.where(unfinished, float(instead), math.nan).to(scores.dtype)
        return torch.where(unfinished, score, scores), {MISSING_EOS_SCORE: score}
    return scores, {}


def _check_options(penalty: float | int | None, instead: float | int | None, score_clip: float | int | None) -> None:
    if penalty is not None and not 0 <= penalty < math.inf:
        raise ConfigError(
            f"missing_eos_penalty = {penalty}; it is subtracted from the score and must be 0 or more. "
            f"Use --missing_eos_penalty 1."
        )
    if instead is not None and not math.isfinite(instead):
        raise ConfigError(
            f"missing_eos_score = {instead}; it takes the score's place and must be finite. Use --missing_eos_score -1."
        )
    if penalty is not None and instead is not None:
        raise ConfigError(
            f"missing_eos_penalty = {penalty} and missing_eos_score = {instead}: a score can be lowered or replaced, "
            "not both. Leave out --missing_eos_penalty or --missing_eos_score."
        )
    if score_clip is not None and not 0 < score_clip < math.inf:
        raise ConfigError(f"score_clip = {score_clip}; it must be above 0 and finite. Use --score_clip 5, or none.")


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
    missing = torch.zeros_like(scores.total, dtype=torch.bool)
    missing[list(scores.missing)] = True
    require_scored(~scores.total.isnan() | missing, rollout, scorer.names)
    if bool(missing.all()):
        raise RewardError(
            f"{', '.join(scorer.names)}: not one of the {len(rollout)} answers has a score, so there is nothing to "
            "learn from. Look at what gives the scores."
        )
    infinite = scores.total.isinf().nonzero().flatten().tolist()
    if infinite:
        raise ScoreError(
            f"the score is infinite for {rows_in_words(infinite, rollout.prompts)}. Return finite numbers."
        )
