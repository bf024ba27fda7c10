"""What was earned, and how much more that is than was expected. Equations (3) and (4), discounted and smoothed.

What was expected is told by a critic (`gae`) or, without one, by the other answers to the same prompt (`rloo`, `grpo`).
REINFORCE++ (Hu et al. 2025, arXiv 2501.03262) needs nothing of its own: its advantage is the return (3) of rewards that
hold the KL, whitened over all tokens of the batch, so that the batch's mean is what was expected.

All recursions run over the kept tokens of a row, one after another, as if the masked cells were cut out: after the last
kept token the value and the return are 0 (no bootstrap), and a hole in the middle neither discounts nor interrupts.

No gradient flows through an advantage or a return: the losses detach both.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.core.masks import kept, widen

AdvantageEstimator = Literal["gae", "rloo", "grpo", "reinforce++"]


def returns(rewards: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], gamma: float | int = 1.0) -> Float[Tensor, "B T"]:
    """(3)  return[i, j] = sum_{k >= j} gamma^(k - j) * reward[i, k]      over the kept tokens; 0 outside the mask.

    The article's gamma is 1. (One line of the article sums from k = 1; its equation, from k = j, is right.)

    Raises ValueError if `gamma` is outside 0..1.
    """
    _check_unit("gamma", gamma)
    return _discounted_sums(kept(rewards, mask), mask, gamma)


def gae(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    gamma: float | int = 1.0,
    lam: float | int = 1.0,
    critic_lam: float | int | None = None,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """(advantages, returns) by generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        delta[j]     = reward[j] + gamma * value[j+1] - value[j]        value after the last kept token = 0
        advantage[j] = delta[j] + gamma * lam * advantage[j+1]
        return[j]    = advantage[j] + value[j]

    `values[:, j]` is the critic's value before token j. At gamma = lam = 1 the return is (3) and the advantage
    (4) = return - value; at lam = 0 it is the TD error delta. Both hold 0 outside the mask.

    `critic_lam` is another lambda for the advantage inside the return, which is what the critic learns (decoupled GAE,
    VAPO: Yue et al. 2025, arXiv 2504.05118, with 1 for the critic); `lam` then is the actor's alone.

    Raises ValueError if `gamma`, `lam` or `critic_lam` is outside 0..1.
    """
    _check_unit("gamma", gamma)
    _check_unit("lam", lam)
    now = kept(values, mask)
    deltas = kept(rewards, mask) + gamma * _next_kept(now, mask) - now
    advantages = _discounted_sums(deltas, mask, gamma * lam)
    if critic_lam is None:
        return advantages, advantages + now
    _check_unit("critic_lam", critic_lam)
    return advantages, _discounted_sums(deltas, mask, gamma * critic_lam) + now


def rloo(totals: Float[Tensor, " B"], group_size: int) -> Float[Tensor, " B"]:
    """advantage[i] = total[i] - mean of the totals of the other answers to the same prompt.

    REINFORCE with a leave-one-out baseline, which leaves the gradient unbiased: Kool et al. 2019 ("Buy 4 REINFORCE
    samples, get a baseline for free!"); for language models Ahmadian et al. 2024 (arXiv 2402.14740).
    `totals` are what whole answers earned (score units). Row i belongs to group i // `group_size`: answers to one
    prompt are adjacent. Answers that all earned the same get 0 exactly. Whitened over the batch it is "REINFORCE++ with
    baseline" (arXiv 2501.03262): the factor group_size / (group_size - 1) by which that one differs goes out again.

    Raises ValueError if `group_size` is below 2 or does not divide B.
    """
    centred = _from_group_mean(totals, group_size)
    return (centred * (group_size / (group_size - 1))).flatten()


def grpo(totals: Float[Tensor, " B"], group_size: int, eps: float | int = 1e-4) -> Float[Tensor, " B"]:
    """advantage[i] = (total[i] - mean) / (std + eps), over the answers to the same prompt.

    Group-relative policy optimisation, Shao et al. 2024 (DeepSeekMath, arXiv 2402.03300, section 4.1). The paper gives
    neither `eps` nor the kind of deviation: 1e-4 and the unbiased one, over group_size - 1, are TRL's. Rows and errors
    are those of `rloo`. Answers that all earned the same get 0 exactly; a group of nearly equal ones is blown up to
    deviation 1 like any other, down to differences of about `eps`.

    Raises ValueError if `group_size` is below 2 or does not divide B, or `eps` is negative.
    """
    if not eps >= 0:
        raise ValueError(f"eps = {eps}; it is added to a standard deviation and must be 0 or more. Use 1e-4.")
    centred = _from_group_mean(totals, group_size)
    std = (centred.square().sum(dim=1, keepdim=True) / (group_size - 1)).sqrt()
    return torch.where(std > 0, centred / (std + eps), 0.0).flatten()  # std 0 and eps 0 would be 0 / 0


def _from_group_mean(totals: Float[Tensor, " B"], group_size: int) -> Float[Tensor, "groups size"]:
    """total - mean of its group, a row a group."""
    if group_size < 2:
        raise ValueError(
            f"group_size = {group_size}; an answer is compared with others to the same prompt, so it must be 2 or "
            "more. Use 4."
        )
    if len(totals) % group_size:
        raise ValueError(
            f"group_size = {group_size} does not divide the {len(totals)} answers of the batch. Use whole groups."
        )
    groups = widen(totals).reshape(-1, group_size)
    # From the first answer's total before the mean is taken: equal totals then differ by 0 exactly, not by rounding
    # (which GRPO would blow up), and a large common offset costs no digits.
    groups = groups - groups[:, :1]
    return groups - groups.mean(dim=1, keepdim=True)


def _next_kept(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """x at the next kept cell to the right, 0 where there is none."""
    rows, length = mask.shape
    beyond = mask.new_full((rows, 1), length, dtype=torch.long)
    here = torch.where(mask, torch.arange(length, device=mask.device), length)
    onwards = torch.cat([here, beyond], dim=1).flip(1).cummin(dim=1).values.flip(1)  # the first kept index >= t
    return torch.cat([x, x.new_zeros((rows, 1))], dim=1).gather(1, onwards[:, 1:])


def _discounted_sums(x: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], decay: float | int) -> Float[Tensor, "B T"]:
    """y[t] = x[t] + decay * y[next kept t], right to left; 0 outside the mask."""
    # One short step a token: tens of milliseconds for a thousand tokens, once an iteration. A closed form by powers of
    # the decay would divide by decay^T and lose all digits on long responses.
    running = x.new_zeros(x.shape[0])
    sums: list[Tensor] = []
    for column, keep in zip(reversed(x.unbind(1)), reversed(mask.unbind(1)), strict=True):
        running = torch.where(keep, column + decay * running, running)
        sums.append(running)
    return kept(torch.stack(sums[::-1], dim=1), mask)


def _check_unit(name: str, value: float | int) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"{name} = {value}; it must lie in 0..1. Use 1 for the article's undiscounted sum.")
