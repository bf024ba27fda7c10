"""What a run really optimises, in one line of mathematics."""

from pathlib import PurePath

from clearppo.config.kinds import number, qualified_name
from clearppo.config.schema import PPOConfig


def objective(config: PPOConfig) -> str:
    """The objective that this configuration maximises, on one line, every active option in its place.

    Notation: E is the mean over the response tokens of a batch; A advantage, R return, V value, r reward, H entropy;
    _old as when sampled. It is the negative of (9); the recipe `article` reads as (7), (8), (9), and its rewards and
    advantages as (1) to (4).
    """
    terms = f"maximise {_actor(config)}{_critic(config)}{_entropy(config)}"
    where = [
        _advantage(config),
        _reward(config),
        _score(config),
        "ratio = exp(log_prob - old_log_prob)",
        *_policy(config),
    ]
    return ",  ".join([terms, *(part for part in where if part)]) + _brake(config)


def _actor(config: PPOConfig) -> str:
    ppo = config.ppo
    if ppo.cliprange is None:
        return "E[ratio*A]"
    high = ppo.cliprange if ppo.cliprange_high is None else ppo.cliprange_high
    clipped = f"min(ratio*A, clip(ratio, {_sum(1.0, -ppo.cliprange)}, {_sum(1.0, high)})*A)"
    if ppo.dual_clip is None:
        return f"E[{clipped}]"
    return f"E[max({clipped}, {number(ppo.dual_clip)}*A where A < 0)]"


def _critic(config: PPOConfig) -> str:
    weight, clip = config.ppo.vf_coef, config.ppo.cliprange_value
    if weight == 0:
        return ""
    if clip is None:
        return f" - {number(weight)} * 1/2 E[(V-R)^2]"
    return f" - {number(weight)} * 1/2 E[max((V-R)^2, (clip(V, V_old-{number(clip)}, V_old+{number(clip)})-R)^2)]"


def _entropy(config: PPOConfig) -> str:
    weight = config.ppo.entropy_coef
    return f" + {_times(weight)}E[H]" if weight else ""


def _advantage(config: PPOConfig) -> str:
    ppo = config.ppo
    whitened = " whitened" if ppo.whiten_advantages else ""
    if ppo.lam == 1:
        total = "sum of r to the end" if ppo.gamma == 1 else f"sum of {number(ppo.gamma)}^k * r to the end"
        return f"A = R - V_old{whitened},  R = {total}"
    gae = f"GAE(gamma={number(ppo.gamma)}, lam={number(ppo.lam)})"
    target = ",  R = GAE + V_old" if ppo.vf_coef else ""
    return f"A = {gae} of r{whitened}{target}"


def _reward(config: PPOConfig) -> str:
    kl, parts = config.kl, ["score on the last token"]
    if kl.kl_coef:
        name = "KL_full" if kl.kl_estimator == "full" else f"KL_{kl.kl_estimator}"
        if kl.kl_controller == "adaptive":
            parts.append(f"beta*{name}(policy||ref)")
        else:
            parts.append(f"{_times(kl.kl_coef)}{name}(policy||ref)")
    reward = " - ".join(parts)
    if config.reward.whiten_rewards:
        reward = f"({reward}) scaled to variance 1"
    if kl.kl_coef and kl.kl_controller == "adaptive":
        reward += (
            f",  beta from {number(kl.kl_coef)} adapted to KL = {number(kl.kl_target)} nats an answer "
            f"(horizon {number(kl.kl_horizon)})"
        )
    return f"r = {reward}"


def _score(config: PPOConfig) -> str:
    reward = config.reward
    names = [_short(qualified_name(f) if callable(f) else f) for f in reward.reward_funcs]
    if reward.reward_model_path is not None:
        names.append(f"RM({PurePath(reward.reward_model_path).name})")
    weights = reward.reward_weights or [1.0] * len(names)
    score = " + ".join(f"{_times(weight)}{name}" for weight, name in zip(weights, names, strict=True))
    if reward.missing_eos_penalty:
        score += f" - {number(reward.missing_eos_penalty)} if the answer never ended"
    return f"score = {score}".replace("+ -", "- ")


def _policy(config: PPOConfig) -> list[str]:
    """The distributions of the log-probabilities and of the draws, where they are not the plain model's."""
    sampling, said = config.sampling, list[str]()
    if sampling.temperature != 1:
        said.append(f"policy = softmax(logits/{number(sampling.temperature)})")
    cuts = [f"top_k {sampling.top_k}"] if sampling.top_k else []
    cuts += [f"top_p {number(sampling.top_p)}"] if sampling.top_p != 1 else []
    if cuts:
        said.append(f"drawn with {' and '.join(cuts)} (off-policy)")
    return said


def _brake(config: PPOConfig) -> str:
    limit = config.ppo.early_stop_kl
    return "" if limit is None else f",  an update ends at KL(old||new) > {number(limit)} a token"


def _times(weight: float) -> str:
    return "" if weight == 1 else f"{number(weight)}*"


def _sum(left: float, right: float) -> str:
    return number(round(left + right, 12))


def _short(name: str) -> str:
    return name.rpartition(":")[2]
