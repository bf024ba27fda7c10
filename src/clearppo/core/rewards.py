"""The reward function: it joins the reward model's score and the distance from the reference. Equations (1) and (2)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clearppo.core.kl import Estimator, kl
from clearppo.core.masks import kept, last_index, widen


def rewards(
    scores: Float[Tensor, " B"],
    old_log_probs: Float[Tensor, "B T"],
    ref_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    kl_coef: float | int = 1.0,
    estimator: Estimator = "k1",
) -> Float[Tensor, "B T"]:
    """The reward of each response token.

        (1)  process_reward[i, j] = -kl_coef * kl[i, j]          with k1: kl_coef * (ref_log_prob - old_log_prob)
        (2)  reward[i, j] = process_reward[i, j] + score[i] * [j is the last token of response i]

    The article's coefficient is 1. The last token is `last_index(mask)`: the EOS, or the last token of a cut answer.
    A row without any token in the mask gets no score: its rewards are all 0. Cells outside the mask hold 0.

    Raises ValueError if `kl_coef` is negative or the estimator unknown.
    """
    # Select before the subtraction, so that inf - inf in padding is never computed.
    return rewards_from_kl(scores, kl(kept(old_log_probs, mask), kept(ref_log_probs, mask), estimator), mask, kl_coef)


def rewards_from_kl(
    scores: Float[Tensor, " B"],
    kl: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    kl_coef: float | int = 1.0,
) -> Float[Tensor, "B T"]:
    """(2) where the KL of each token is there already, for example from `full_kl`: -kl_coef * kl, plus the score.

    Raises ValueError if `kl_coef` is negative: it would pay the policy for leaving the reference.
    """
    if not kl_coef >= 0:
        raise ValueError(f"kl_coef = {kl_coef}; it must be 0 or more: the KL is subtracted from the reward. Use 0.05.")
    positions = torch.arange(mask.shape[1], device=mask.device)
    is_last = positions == last_index(mask).unsqueeze(1)
    return torch.where(is_last, widen(scores).unsqueeze(1), 0.0) - kl_coef * kept(kl, mask)
