"""学习, first half: what was earned beyond what was expected, equations (3) and (4)."""

from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.batch import Experience, Feedback, Rollout
from clearppo.core.advantages import AdvantageEstimator, gae, grpo, returns, rloo
from clearppo.core.masks import kept, whiten
from clearppo.errors import RewardError


def credit(
    rollout: Rollout,
    feedback: Feedback,
    *,
    estimator: AdvantageEstimator = "gae",
    group_size: int = 1,
    gamma: float = 1.0,
    lam: float = 1.0,
    critic_lam: float | None = None,
    whiten_advantages: bool = False,
    unbiased: bool = False,
) -> Experience:
    """Advantages and returns of every response token.

    - "gae": by the critic's old values; at gamma = lam = 1 these are equations (3) and (4). `critic_lam` makes the
      returns (the critic's targets) with another lambda.
    - "rloo", "grpo": a whole answer's reward, the sum over its tokens of `feedback.rewards` (so a KL in there counts),
      against those of the other answers to its prompt; every token of the answer has the same advantage. Answers to one
      prompt are `group_size` adjacent rows.
    - "reinforce++": the (discounted) rewards from the token on. The paper whitens them, which makes the batch's mean
      the baseline; without `whiten_advantages` this is REINFORCE without any.

    The last three read no old values; their returns are (3), discounted, for the metrics only.
    `whiten_advantages` subtracts the mean and divides by the standard deviation over all response tokens of the batch
    (population variance, or over n - 1 if `unbiased`); returns are not touched by it. GRPO's advantages, scaled within
    their groups already, never are either.

    Answers without a score are left out: they are in no mean, and not in the experience. "rloo" and "grpo" compare the
    answers to one prompt, so there all answers to a prompt go if one has no score. Raises RewardError if that leaves
    none.

    Raises ValueError if no row has a token, or `group_size` is below 2 or does not divide the batch where it is used.
    """
    learned = learned_answers(feedback, estimator, group_size)
    mask = rollout.mask & learned.unsqueeze(1)
    if estimator == "gae":
        advantages, earned = gae(feedback.rewards, rollout.old_values, mask, gamma, lam, critic_lam)
    else:
        earned = returns(feedback.rewards, mask, gamma)
        advantages = earned if estimator == "reinforce++" else _by_group(rollout, feedback, estimator, group_size)
    if whiten_advantages and estimator != "grpo":
        advantages = whiten(advantages, mask, unbiased=unbiased)
    whole = Experience(rollout=rollout, advantages=advantages, returns=earned, ref_log_probs=feedback.ref_log_probs)
    return whole if bool(learned.all()) else whole.select(learned.nonzero().flatten().tolist())


def learned_answers(feedback: Feedback, estimator: AdvantageEstimator, group_size: int) -> Bool[Tensor, " B"]:
    """Which answers are learned from: those with a score, where answers are compared in whole groups."""
    scored = feedback.scored
    if estimator not in ("rloo", "grpo"):
        return scored
    if bool(scored.all()) or len(scored) % group_size:  # the comparison itself says what is wrong with a group size
        return scored
    whole = scored.reshape(-1, group_size).all(dim=1).repeat_interleave(group_size)
    if not bool(whole.any()):
        raise RewardError(
            f"there is no prompt whose {group_size} answers all have a score, so there is nothing to compare. "
            "Look at what gives the scores, or use --advantage_estimator gae."
        )
    return whole


def _by_group(
    rollout: Rollout, feedback: Feedback, estimator: AdvantageEstimator, group_size: int
) -> Float[Tensor, "B T"]:
    """An answer's advantage over the others to its prompt, at each of its tokens."""
    totals = kept(feedback.rewards, rollout.mask).sum(dim=1)
    compare = rloo if estimator == "rloo" else grpo
    return kept(compare(totals, group_size)[:, None].expand_as(feedback.rewards), rollout.mask)
