"""学习, first half: what was earned beyond what was expected, equations (3) and (4)."""

from clearppo.batch import Experience, Feedback, Rollout
from clearppo.core.advantages import gae
from clearppo.core.masks import whiten


def credit(
    rollout: Rollout, feedback: Feedback, *, gamma: float = 1.0, lam: float = 1.0, whiten_advantages: bool = False
) -> Experience:
    """Advantages and returns of every response token. At gamma = lam = 1 these are equations (3) and (4).

    Whitening subtracts the mean and divides by the standard deviation over all response tokens of the batch
    (population variance); returns are not touched by it. Raises ValueError if no row has a token.
    """
    advantages, returns = gae(feedback.rewards, rollout.old_values, rollout.mask, gamma=gamma, lam=lam)
    if whiten_advantages:
        advantages = whiten(advantages, rollout.mask)
    return Experience(rollout=rollout, advantages=advantages, returns=returns)
