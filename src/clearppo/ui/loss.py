"""(5) to (9) of one token: what it added to the loss, epoch by epoch."""

import math

from clearppo.ui.equation_words import NAMES, NOTES, Words
from clearppo.ui.lines import MAX_LOG_RATIO, Equation, Token, beyond, bounds, bracketed, compared, plain, times


def losses(token: Token) -> list[Equation]:
    """The lines from the advantage to the loss, before it is divided by the number of tokens."""
    objective, advantage = token.meta["objective"], token.at("advantages")
    if advantage is None:
        return []
    lines, weight = list[Equation](), 1.0
    if (cap := objective["importance_cap"]) is not None:
        lines.append(_weight(token, cap, objective.get("importance_level", "token")))
        weight = lines[-1].value or 0.0
    read = [(epoch, ratio) for epoch, ratio in enumerate(token.ratios, 1) if ratio is not None]
    actors = [_actor(token, epoch, ratio, advantage, weight) for epoch, ratio in read]
    lines += actors
    critic = _critic(token) if objective["vf_coef"] and token.at("values") is not None else None
    lines += [critic] if critic else []
    if actors:
        lines += _loss(token, actors[0], critic, read[0][1])
    return lines


def _weight(token: Token, cap: float, level: str) -> Equation:
    """How much rather the learner would have drawn the token, or the whole answer, than the sampler did."""
    if level == "sequence":
        pairs = zip(token.whole("log_probs"), token.whole("sampler_log_probs"), strict=True)
        total = math.fsum(old - sampler for old, sampler in pairs)
        return Equation(
            number="", name=NAMES["weight"], value=math.exp(min(total, math.log(cap))),
            symbols="weight = min(exp(sum of old_log_prob - sampler_log_prob over the answer), cap)",
            numbers=f"min(exp({plain(total)}), {plain(cap)})",
        )  # fmt: skip
    old, sampler = token.at("log_probs") or 0.0, token.at("sampler_log_probs") or 0.0
    return Equation(
        number="", name=NAMES["weight"], value=math.exp(min(old - sampler, math.log(cap))),
        symbols="weight = min(exp(old_log_prob - sampler_log_prob), cap)",
        numbers=f"min(exp({plain(old)} - {bracketed(sampler)}), {plain(cap)})",
    )  # fmt: skip


def _actor(token: Token, epoch: int, ratio: float, advantage: float, weight: float) -> Equation:
    """(7) of an epoch, with the clips that the run has."""
    objective = token.meta["objective"]
    ratio = min(ratio, math.exp(MAX_LOG_RATIO))
    low, high = bounds(objective)
    value = -advantage * ratio
    symbols, numbers = "-advantage * ratio", f"{plain(-advantage)} * {plain(ratio)}"
    said: Words = NOTES["share"]
    if objective["clip"] is not None:
        near = min(max(ratio, low), high)
        value = max(value, -advantage * near)
        symbols = f"max({symbols}, -advantage * clip(ratio, {plain(low)}, {plain(high)}))"
        numbers = f"max({numbers}, {plain(-advantage)} * {plain(near)})"
    if beyond(ratio, advantage, low, high):
        said = NOTES["clipped"]
    if (dual := objective["dual_clip"]) is not None and advantage < 0:
        if -dual * advantage < value:
            value, said = -dual * advantage, NOTES["dual"]
        symbols, numbers = f"min({symbols}, -{plain(dual)} * advantage)", f"min({numbers}, {plain(-dual * advantage)})"
    if objective["importance_cap"] is not None:
        value, symbols, numbers = weight * value, f"weight * {symbols}", f"{plain(weight)} * {numbers}"
    if token.meta["critic_only"]:
        said = NOTES["warm_up"]
    elif token.meta["first_is_old"]:
        said = NOTES["first_is_old"]
    return Equation(
        number="7", name=NAMES["actor"], symbols=f"actor_loss = {symbols}", numbers=numbers, value=value, note=said,
        epoch=epoch,
    )  # fmt: skip


def _critic(token: Token) -> Equation:
    """(8), as the first step saw it: with the value still the old one, the clip has nothing to cut."""
    value, target = token.at("values") or 0.0, token.at("returns") or 0.0
    return Equation(
        number="8", name=NAMES["critic"], symbols="critic_loss = 1/2 * (old_value - return)^2",
        numbers=f"1/2 * ({plain(value)} - {bracketed(target)})^2", value=(value - target) ** 2 / 2,
        note=NOTES["old_value"],
    )  # fmt: skip


def _loss(token: Token, actor: Equation, critic: Equation | None, ratio: float) -> list[Equation]:
    """(9): the actor's part in the first epoch that read the token, the critic's, and the KL in the loss."""
    objective, lines = token.meta["objective"], list[Equation]()
    value, symbols, numbers = actor.value or 0.0, "actor_loss", plain(actor.value)
    if critic:
        front, factor = times("vf_coef", objective["vf_coef"])
        value += objective["vf_coef"] * (critic.value or 0.0)
        symbols, numbers = f"{symbols} + {front}critic_loss", f"{numbers} + {factor}{plain(critic.value)}"
    said = NOTES["entropy"] if objective["entropy_coef"] else None
    if objective["kl_loss_coef"] and not token.meta["critic_only"]:
        if objective["kl_loss_estimator"] == "full":
            said = NOTES["full_kl_loss"]
        else:
            line = _kl_loss(token, ratio)
            lines.append(line)
            front, factor = times("kl_loss_coef", objective["kl_loss_coef"])
            value += objective["kl_loss_coef"] * (line.value or 0.0)
            symbols, numbers = f"{symbols} + {front}kl_loss", f"{numbers} + {factor}{bracketed(line.value)}"
    last = Equation(
        number="9", name=NAMES["loss"], symbols=f"loss = {symbols}", numbers=numbers, value=value, note=said,
        epoch=actor.epoch,
    )  # fmt: skip
    return [*lines, last]


def _kl_loss(token: Token, ratio: float) -> Equation:
    """The KL of the live policy, whose log-prob is the old one plus the log of the ratio."""
    log_prob = (token.at("log_probs") or 0.0) + math.log(max(ratio, 1e-300))
    ref, estimator = token.at("ref_log_probs") or 0.0, token.meta["objective"]["kl_loss_estimator"]
    d = log_prob - ref
    if estimator == "k2":
        value, symbols = d**2 / 2, "(log_prob - ref_log_prob)^2 / 2"
        numbers = f"({plain(log_prob)} - {bracketed(ref)})^2 / 2"
    else:
        value = max(math.expm1(min(-d, 700.0)) + d, 0.0)
        symbols = "exp(ref_log_prob - log_prob) - 1 + log_prob - ref_log_prob"
        numbers = f"exp({plain(ref)} - {bracketed(log_prob)}) - 1 + {plain(log_prob)} - {bracketed(ref)}"
    return compared(
        None, (), number="", name=NAMES["kl_loss"], value=value, symbols=f"kl_loss = {symbols}", numbers=numbers
    )
