"""The losses of the three stages: PPO's actor and critic, equations (5) to (8), the reward model's, and SFT's.

(9), loss = actor_loss + 0.1 * critic_loss, is one line in the learner.

Every token loss is a sum over the mask divided by `count`. Give the global number of tokens as `count` and the losses
of microbatches and processes add up to the loss of the whole; without it the denominator is `mask.sum()`, and an empty
mask raises ValueError. A plain number as `count` must be positive; a 0-d tensor is trusted, because looking into it
would make the host wait for the device.

Advantages, returns and everything `old_` are constants here: no gradient flows into them.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from clearppo.core.masks import cells, kept, masked_sum, widen

Count = int | float | Tensor

# exp(log-ratio) overflows float32 at 88.7 nats. The loss of a clipped token stays finite then, but its gradient is
# 0 * inf = NaN, and one NaN destroys the model. So log-ratios are cut at 20 nats from above; below the cut nothing
# changes. Above it the new policy holds the token 4.9e8 times as likely as the old one did, which no sane update brings
# about; such a token keeps a finite loss and gets no gradient. 20 and not 88, so that the squares of the gradients that
# do pass (up to 2.4e17 times the advantage's) still sum in float32 when their norm is taken. From below no cut is
# needed: exp falls to 0 smoothly, in value and gradient.
MAX_LOG_RATIO = 20.0


def actor_loss(
    advantages: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    count: Count | None = None,
    clip: float | int | None = None,
    clip_high: float | int | None = None,
    dual_clip: float | int | None = None,
    weights: Float[Tensor, "B T"] | None = None,
) -> Float[Tensor, ""]:
    """PPO's policy loss. With ratio = exp(log_prob - old_log_prob):

        (6) (7)    actor_loss = -sum(advantage * ratio) / count
        clip       actor_loss = sum(max(-advantage * ratio, -advantage * clip(ratio, 1 - clip, 1 + clip_high))) / count
        dual_clip  where the advantage is negative, no token costs more than -dual_clip * advantage
        weights    each token's summand is multiplied with its weight, a constant (see `importance_weights`)

    Sources: clip, Schulman et al. 2017 (arXiv 1707.06347, eq. 7); `clip_high` (default: `clip`), DAPO (arXiv
    2503.14476); `dual_clip`, Ye et al. 2020 (arXiv 1912.09729). The article has none of the three.
    Log-ratios above 20 nats are cut (see MAX_LOG_RATIO).

    Raises ValueError if `clip` or `clip_high` is not positive, `dual_clip` is not above 1, one of the last two is given
    without `clip`, `count` is not positive, or the mask is empty and no `count` is given.
    """
    _check_clip(clip, clip_high, dual_clip)
    advantage = kept(advantages.detach(), mask)
    ratio = _ratio(old_log_probs, log_probs, mask)
    loss = -advantage * ratio
    if clip is not None:
        loss = torch.maximum(loss, -advantage * _clipped_ratio(ratio, clip, clip_high))
    if dual_clip is not None:
        loss = torch.where(advantage < 0, torch.minimum(loss, -dual_clip * advantage), loss)
    if weights is not None:
        loss = kept(weights.detach(), mask) * loss
    return masked_sum(loss, mask) / _denominator(mask, count)


def importance_weights(
    old_log_probs: Float[Tensor, "B T"],
    sampler_log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    cap: float | int,
    level: Literal["token", "sequence"] = "token",
) -> Float[Tensor, "B T"]:
    """weight = min(p_old / p_sampler, cap) = min(exp(old_log_prob - sampler_log_prob), cap); 0 outside the mask.

    With `level` "sequence" p is of the whole answer, the product over its tokens, and its weight is every token's.

    What corrects `actor_loss` for tokens that were drawn by other arithmetic (bfloat16, another engine) than the one
    that old_log_probs come from. The cap bounds the variance that rare tokens would bring, at the price of a bias.
    Sources: IMPALA (arXiv 1802.01561, section 4.1, its truncated weights); "truncated importance sampling" in Yao et
    al. 2025, "Your efficient RL framework secretly brings you off-policy RL training".

    Raises ValueError if `cap` is not positive.
    """
    if cap <= 0:
        raise ValueError(f"cap = {cap} would leave no weight. Use a positive number, 2 is usual.")
    difference = kept(old_log_probs, mask) - kept(sampler_log_probs, mask)
    if level == "sequence":
        difference = kept(difference, mask).sum(dim=1, keepdim=True).expand_as(difference)
    return kept(difference.detach().exp().clamp(max=cap), mask)  # exp may be inf, and inf is cut to the cap


def actor_clipped(
    advantages: Float[Tensor, "B T"],
    old_log_probs: Float[Tensor, "B T"],
    log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float | int,
    clip_high: float | int | None = None,
) -> Bool[Tensor, "B T"]:
    """True where the clipped term of `actor_loss` is strictly the larger one, so that the token gets no gradient.

    Its sum over mask.sum() is the clip fraction (lm-human-preferences). False outside the mask.

    Raises ValueError as `actor_loss` does for `clip` and `clip_high`.
    """
    _check_clip(clip, clip_high, None)
    advantage = kept(advantages, mask)
    ratio = _ratio(old_log_probs, log_probs, mask)
    return -advantage * _clipped_ratio(ratio, clip, clip_high) > -advantage * ratio  # 0 > 0 outside the mask


def probability_loss(
    advantages: Float[Tensor, "B T"],
    log_probs: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    count: Count | None = None,
) -> Float[Tensor, ""]:
    """(5)  actor_loss = -sum(advantage * p(token | context)) / count: the article's first idea, to compare with (7).

    Raises ValueError if `count` is not positive, or the mask is empty and no `count` is given.
    """
    loss = -kept(advantages.detach(), mask) * kept(log_probs, mask).exp()
    return masked_sum(loss, mask) / _denominator(mask, count)


def critic_loss(
    returns: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    count: Count | None = None,
    clip: float | int | None = None,
) -> Float[Tensor, ""]:
    """The critic's loss against the returns of (3), or of GAE.

        (8)   critic_loss = 1/2 * sum((value - return)^2) / count
        clip  critic_loss = 1/2 * sum(max((value - return)^2, (near - return)^2)) / count
              with near = clip(value, old_value - clip, old_value + clip)

    Source of the clip: lm-human-preferences train_policy.py; the article has none, and `old_values` is not read
    without it. (The article's last listing hands rewards to this loss; its equation needs returns.)

    Raises ValueError if `clip` is not positive, `count` is not positive, or the mask is empty and no `count` is given.
    """
    target, value = kept(returns.detach(), mask), kept(values, mask)
    error = (value - target).square()
    if clip is not None:
        error = torch.maximum(error, (_near(old_values, value, mask, clip) - target).square())
    return masked_sum(error, mask) / 2 / _denominator(mask, count)


def critic_clipped(
    returns: Float[Tensor, "B T"],
    old_values: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    clip: float | int,
) -> Bool[Tensor, "B T"]:
    """True where the clipped error of `critic_loss` is strictly the larger one. False outside the mask.

    Raises ValueError if `clip` is not positive.
    """
    target, value = kept(returns, mask), kept(values, mask)
    near = _near(old_values, value, mask, clip)
    return (near - target).square() > (value - target).square()  # 0 > 0 outside the mask


def kl_loss(kl: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], count: Count | None = None) -> Float[Tensor, ""]:
    """KL in the loss rather than, or as well as, in the reward of (1): sum(kl) / count, nats a token.

    `kl` is core.kl.kl(log_probs, ref_log_probs, ...) or core.kl.full_kl(logits, ref_logits, ...) with gradients. Where
    the tokens were sampled from the policy as it is, the expected gradient is, at each context,

        full, k2   that of KL(policy || reference)
        k3         that of KL(reference || policy), though its value estimates KL(policy || reference): GRPO's
        k1         0: its value is the KL, its gradient only noise, so no run offers it

    Source: k3 in the loss, GRPO (arXiv 2402.03300, equation 4). tests/learning/test_kl_in_loss.py proves the gradients.

    Raises ValueError if `count` is not positive, or the mask is empty and no `count` is given.
    """
    return masked_sum(kl, mask) / _denominator(mask, count)


def preference_loss(
    chosen: Float[Tensor, " B"],
    rejected: Float[Tensor, " B"],
    margin: Float[Tensor, " B"] | None = None,
    count: Count | None = None,
) -> Float[Tensor, ""]:
    """The pairwise reward-model loss, -sum(log sigmoid(chosen - rejected - margin)) / count; count is B if not given.

    Source: "Learning to summarize from human feedback" (arXiv 2009.01325, section 3.4); the margin is Llama 2's (arXiv
    2307.09288). Stable for any difference: +2000 costs 0 and -2000 costs 2000.

    Raises ValueError if `count` is not positive, or there is no pair and no `count`.
    """
    total = _pair_costs(chosen, rejected, margin).sum()
    return total / _positive(chosen.shape[0] if count is None else count)


def best_of_n_loss(
    scores: Float[Tensor, "B n"], choice: Int[Tensor, " B"], count: Count | None = None
) -> Float[Tensor, ""]:
    """The loss of picking one of n answers, -sum(log softmax(scores)[choice]) / count; count is B if not given.

    A model that knows nothing pays log n. Source: lm-human-preferences label_types.py:44-49.

    Raises ValueError if `count` is not positive, or there is no row and no `count`.
    """
    picked = torch.log_softmax(widen(scores), dim=1).gather(1, choice.long().unsqueeze(1)).squeeze(1)
    return -picked.sum() / _positive(scores.shape[0] if count is None else count)


def kwise_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    prompt: Int[Tensor, " N"],
    margin: Float[Tensor, " N"] | None = None,
    count: Count | None = None,
) -> Float[Tensor, ""]:
    """InstructGPT's loss over rankings: for each prompt the mean over its pairs, then the sum of these / count.

        -sum_prompts (1 / n_pairs of the prompt) sum_pairs log sigmoid(chosen - rejected - margin) / count

    `prompt[i]` is a number of the prompt that pair i belongs to, any number; of K answers without ties there are
    K (K - 1) / 2 pairs. Count is the number of prompts if not given. All pairs of a prompt must stand in one call, or
    each part would take its own mean. Source: arXiv 2203.02155, equation (1). Where K varies this is not the mean over
    all pairs: there a prompt of nine answers weighs as much as 36 of two.

    Raises ValueError if `count` is not positive, or there is no pair and no `count`.
    """
    weight, prompts = _pair_weights(prompt, chosen)
    total = (_pair_costs(chosen, rejected, margin) * weight).sum()
    return total / _positive(prompts if count is None else count)


def centring_loss(
    chosen: Float[Tensor, " N"],
    rejected: Float[Tensor, " N"],
    prompt: Int[Tensor, " N"] | None = None,
    count: Count | None = None,
) -> Float[Tensor, ""]:
    """What keeps scores around 0, sum((chosen + rejected)^2) / count; count is the number of pairs if not given.

    The preference losses see differences only, so that a constant on all scores costs nothing there. With `prompt`
    each prompt's mean over its pairs counts once, as in `kwise_loss`, and count is the number of prompts.
    Source: Eisenstein et al. 2023 (arXiv 2312.09244); TRL adds 0.01 of it or so.

    Raises ValueError if `count` is not positive, or there is no pair and no `count`.
    """
    cost, n = (widen(chosen) + widen(rejected)).square(), chosen.shape[0]
    if prompt is not None:
        weight, n = _pair_weights(prompt, chosen)
        cost = cost * weight
    return cost.sum() / _positive(n if count is None else count)


def all_token_loss(
    chosen: Float[Tensor, "B T"],
    rejected: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    margin: Float[Tensor, " B"] | None = None,
    count: Count | None = None,
) -> Float[Tensor, ""]:
    """DeepSpeed-Chat's pairwise loss over scores at every token: a pair's mean over its mask, the sum of these / count.

        -sum_pairs (1 / n_masked of the pair) sum_t log sigmoid(chosen_t - rejected_t - margin) / count

    Count is the number of pairs if not given. `differing_span` makes the mask. DeepSpeed-Chat has no margin.
    Source: DeepSpeedExamples, dschat/utils/model/reward_model.py:80-118.

    Raises ValueError if a pair has no cell in the mask, `count` is not positive, or there is no pair and no `count`.
    """
    n = mask.sum(dim=1)
    if bool((n == 0).any()):
        raise ValueError("a pair has no token in the mask, so its mean is not defined. Use differing_span's mask.")
    difference = kept(chosen, mask) - kept(rejected, mask)
    if margin is not None:
        difference = difference - widen(margin).unsqueeze(1)
    cost = kept(-torch.nn.functional.logsigmoid(difference), mask).sum(dim=1) / n
    return cost.sum() / _positive(chosen.shape[0] if count is None else count)


def sft_loss(
    log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], count: Count | None = None
) -> Float[Tensor, ""]:
    """Supervised fine-tuning, -sum(log p(token | context)) / count: nats a token over the demonstrated tokens.

    Raises ValueError if `count` is not positive, or the mask is empty and no `count` is given.
    """
    return -masked_sum(log_probs, mask) / _denominator(mask, count)


def _pair_costs(
    chosen: Float[Tensor, " N"], rejected: Float[Tensor, " N"], margin: Float[Tensor, " N"] | None
) -> Float[Tensor, " N"]:
    difference = widen(chosen) - widen(rejected)
    if margin is not None:
        difference = difference - widen(margin)
    return -torch.nn.functional.logsigmoid(difference)


def _pair_weights(prompt: Int[Tensor, " N"], like: Float[Tensor, " N"]) -> tuple[Float[Tensor, " N"], int]:
    """1 / the number of pairs of each pair's prompt, in float32 at least; and how many prompts there are."""
    n_pairs = (prompt.unsqueeze(1) == prompt).sum(dim=1)
    # The weights of one prompt's pairs add up to 1, so that all add up to the number of prompts.
    return n_pairs.to(widen(like).dtype).reciprocal(), round(float(n_pairs.double().reciprocal().sum()))


def _ratio(
    old_log_probs: Float[Tensor, "B T"], log_probs: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"]
) -> Float[Tensor, "B T"]:
    return (kept(log_probs, mask) - kept(old_log_probs.detach(), mask)).clamp(max=MAX_LOG_RATIO).exp()


def _clipped_ratio(
    ratio: Float[Tensor, "B T"], clip: float | int, clip_high: float | int | None
) -> Float[Tensor, "B T"]:
    return ratio.clamp(1 - clip, 1 + (clip if clip_high is None else clip_high))


def _near(
    old_values: Float[Tensor, "B T"], value: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], clip: float | int
) -> Float[Tensor, "B T"]:
    if not clip > 0:
        raise ValueError(f"clip = {clip}; the critic's clip must be above 0. Use 0.2, or None for no clipping.")
    old_value = kept(old_values.detach(), mask)
    return torch.clamp(value, old_value - clip, old_value + clip)


def _denominator(mask: Bool[Tensor, "*shape"], count: Count | None) -> Count:
    return cells(mask) if count is None else _positive(count)


def _positive(count: Count) -> Count:
    if not isinstance(count, Tensor) and not count > 0:
        raise ValueError(
            f"count = {count}; it must be the global number of tokens (or rows), above 0. "
            "Leave it out to divide by the batch's own number, unless the batch is empty."
        )
    return count


def _check_clip(clip: float | int | None, clip_high: float | int | None, dual_clip: float | int | None) -> None:
    if clip is None and (clip_high is not None or dual_clip is not None):
        name, value = ("clip_high", clip_high) if clip_high is not None else ("dual_clip", dual_clip)
        raise ValueError(f"{name} = {value} has no effect without clip. Give clip = 0.2, or leave {name} out.")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip = {clip}; it must be above 0. Use 0.2, or None for no clipping.")
    if clip_high is not None and not clip_high > 0:
        raise ValueError(
            f"clip_high = {clip_high}; it must be above 0. Use 0.28, or leave it out for clip's own value."
        )
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip = {dual_clip}; it must be above 1. Use 3, or None for no second clip.")
