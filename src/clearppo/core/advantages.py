"""What was earned, and how much more that is than was expected. Equations (3) and (4), discounted and smoothed.

All recursions run over the kept tokens of a row, one after another, as if the masked cells were cut out: after the last
kept token the value and the return are 0 (no bootstrap), and a hole in the middle neither discounts nor interrupts.

No gradient flows through an advantage or a return: the losses detach both.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.core.masks import kept


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
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """(advantages, returns) by generalised advantage estimation (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

        delta[j]     = reward[j] + gamma * value[j+1] - value[j]        value after the last kept token = 0
        advantage[j] = delta[j] + gamma * lam * advantage[j+1]
        return[j]    = advantage[j] + value[j]

    `values[:, j]` is the critic's value before token j. At gamma = lam = 1 the return is (3) and the advantage
    (4) = return - value; at lam = 0 it is the TD error delta. Both hold 0 outside the mask.

    Raises ValueError if `gamma` or `lam` is outside 0..1.
    """
    _check_unit("gamma", gamma)
    _check_unit("lam", lam)
    now = kept(values, mask)
    deltas = kept(rewards, mask) + gamma * _next_kept(now, mask) - now
    advantages = _discounted_sums(deltas, mask, gamma * lam)
    return advantages, advantages + now


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
