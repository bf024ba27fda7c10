"""What a run really optimises, in one line of mathematics."""

from pathlib import PurePath
from urllib.parse import urlsplit

from clearppo.config.kinds import number, qualified_name
from clearppo.config.schema import PPOConfig


def objective(config: PPOConfig) -> str:
    """The objective that this configuration maximises, on one line, every active option in its place.

    Notation: E is the mean over the response tokens of a batch; A advantage, R return, V value, r reward, S sum of r
    over an answer, H entropy; _old as when sampled. It is the negative of (9); the recipe `article` reads as (7), (8),
    (9), and its rewards and advantages as (1) to (4).
    """
    policy, critic = _actor(config), _critic(config)
    others = f"{_entropy(config)}{_kl_loss(config)}{_ptx(config)}"
    if config.ptx.ptx_coef and config.ptx.ptx_reduction == "mean":
        terms = f"maximise 1/2 ({policy}{others}){critic}"
    else:
        terms = f"maximise {policy}{critic}{others}"
    where = [
        _advantage(config),
        _reward(config),
        _score(config),
        "ratio = exp(log_prob - old_log_prob)",
        _weight(config),
        *_policy(config),
    ]
    return ",  ".join([terms, *(part for part in where if part), *_brakes(config)])


def _actor(config: PPOConfig) -> str:
    ppo = config.ppo
    weight = "w*" if ppo.importance_cap is not None else ""
    if ppo.cliprange is None:
        return f"E[{weight}ratio*A]"
    high = ppo.cliprange if ppo.cliprange_high is None else ppo.cliprange_high
    clipped = f"min(ratio*A, clip(ratio, {_sum(1.0, -ppo.cliprange)}, {_sum(1.0, high)})*A)"
    if ppo.dual_clip is None:
        return f"E[{weight}{clipped}]"
    return f"E[{weight}max({clipped}, {number(ppo.dual_clip)}*A where A < 0)]"


def _weight(config: PPOConfig) -> str:
    cap = config.ppo.importance_cap
    if cap is None:
        return ""
    whole = config.ppo.importance_level == "sequence"
    difference = (
        "sum over the answer of old_log_prob - sampler_log_prob" if whole else "old_log_prob - sampler_log_prob"
    )
    return f"w = min(exp({difference}), {number(cap)})"


def _critic(config: PPOConfig) -> str:
    weight, clip = config.ppo.vf_coef, config.ppo.cliprange_value
    if weight == 0 or not config.has_critic:
        return ""
    if clip is None:
        return f" - {number(weight)} * 1/2 E[(V-R)^2]"
    return f" - {number(weight)} * 1/2 E[max((V-R)^2, (clip(V, V_old-{number(clip)}, V_old+{number(clip)})-R)^2)]"


def _entropy(config: PPOConfig) -> str:
    weight = config.ppo.entropy_coef
    return f" + {_times(weight)}E[H]" if weight else ""


def _kl_loss(config: PPOConfig) -> str:
    weight = config.kl.kl_loss_coef
    return f" - {_times(weight)}E[KL_{config.kl.kl_loss_estimator}(policy||ref)]" if weight else ""


def _ptx(config: PPOConfig) -> str:
    ptx = config.ptx
    name = PurePath(ptx.ptx_dataset_name or "").name
    return f" + {_times(ptx.ptx_coef)}E[log p(token) in {name}]" if ptx.ptx_coef else ""


def _advantage(config: PPOConfig) -> str:
    ppo = config.ppo
    whitened = _whitened(config) if ppo.whiten_advantages else ""
    match ppo.advantage_estimator:
        case "gae":
            return _by_critic(config, whitened)
        case "reinforce++":
            return f"A = {_sum_to_the_end(ppo.gamma)}{whitened}"
        case "rloo":
            return f"A = S - mean of S over the prompt's other answers{whitened},  S = sum of r over the answer"
        case "grpo":
            return "A = (S - mean of S) / (std of S + 1e-4) over the prompt's answers,  S = sum of r over the answer"


def _by_critic(config: PPOConfig, whitened: str) -> str:
    ppo = config.ppo
    critic_lam = ppo.lam if ppo.critic_lam is None else ppo.critic_lam
    target = f"R = {_return(ppo.gamma, critic_lam)}"
    if ppo.lam != 1:
        advantage = f"A = GAE(gamma={number(ppo.gamma)}, lam={number(ppo.lam)}) of r{whitened}"
        if critic_lam == ppo.lam:
            target = "R = GAE + V_old"
        return f"{advantage},  {target}" if ppo.vf_coef else advantage
    if critic_lam == 1:
        return f"A = R - V_old{whitened},  {target}"
    return f"A = {_sum_to_the_end(ppo.gamma)} - V_old{whitened},  {target}"


def _return(gamma: float, lam: float) -> str:
    return _sum_to_the_end(gamma) if lam == 1 else f"GAE(gamma={number(gamma)}, lam={number(lam)}) of r + V_old"


def _sum_to_the_end(gamma: float) -> str:
    return "sum of r to the end" if gamma == 1 else f"sum of {number(gamma)}^k * r to the end"


def _whitened(config: PPOConfig) -> str:
    return " whitened by n - 1" if config.ppo.unbiased_whitening else " whitened"


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
        reward = f"({reward}) scaled to variance 1{' by n - 1' if config.ppo.unbiased_whitening else ''}"
    if kl.kl_coef and kl.kl_controller == "adaptive":
        reward += (
            f",  beta from {number(kl.kl_coef)} adapted to KL = {number(kl.kl_target)} nats an answer "
            f"(horizon {number(kl.kl_horizon)})"
        )
    return f"r = {reward}"


def _score(config: PPOConfig) -> str:
    reward = config.reward
    names = [_short(qualified_name(f) if callable(f) else f) for f in reward.reward_funcs]
    names += [f"server({urlsplit(url).netloc})" for url in reward.reward_urls]
    if reward.reward_model_path is not None:
        names.append(f"RM({PurePath(reward.reward_model_path).name})")
    weights = reward.reward_weights or [1.0] * len(names)
    score = " + ".join(f"{_times(weight)}{name}" for weight, name in zip(weights, names, strict=True))
    score = score.replace("+ -", "- ")
    match reward.score_scaling:
        case "running-std":
            score = f"({score}) / std so far"
        case "running":
            score = f"({score} - mean so far) / std so far"
        case "reference":
            score = f"({score} - mean) / std of the start model's answers"
        case None:
            pass
    if reward.score_clip is not None:
        score = f"clip({score}, {number(-reward.score_clip)}, {number(reward.score_clip)})"
    if reward.missing_eos_penalty:
        score += f" - {number(reward.missing_eos_penalty)} if the answer never ended"
    if reward.missing_eos_score is not None:
        score += f", or {number(reward.missing_eos_score)} if the answer never ended"
    return f"score = {score}"


def _policy(config: PPOConfig) -> list[str]:
    """The distributions of the log-probabilities and of the draws, where they are not the plain model's."""
    sampling, said = config.sampling, list[str]()
    if sampling.temperature != 1:
        said.append(f"policy = softmax(logits/{number(sampling.temperature)})")
    cuts = [f"top_k {sampling.top_k}"] if sampling.top_k else []
    cuts += [f"top_p {number(sampling.top_p)}"] if sampling.top_p != 1 else []
    if cuts:
        said.append(f"drawn with {' and '.join(cuts)} (off-policy)")
    if sampling.fixed_length:
        said.append(f"every answer has {sampling.response_length} tokens")
    if sampling.truncate_token is not None:
        after = f" behind its first {sampling.truncate_after} tokens" if sampling.truncate_after else ""
        said.append(f"scored up to its first {sampling.truncate_token!r}{after}")
    return said


def _brakes(config: PPOConfig) -> list[str]:
    """What holds the policy back at times."""
    ppo, said = config.ppo, list[str]()
    if ppo.early_stop_kl is not None:
        said.append(f"an update ends at KL(old||new) > {number(ppo.early_stop_kl)} a token")
    if ppo.critic_warmup_steps and config.has_critic:
        said.append(f"in the first {ppo.critic_warmup_steps} iterations only the critic learns")
    return said


def _times(weight: float) -> str:
    return "" if weight == 1 else f"{number(weight)}*"


def _sum(left: float, right: float) -> str:
    return number(round(left + right, 12))


def _short(name: str) -> str:
    return name.rpartition(":")[2]
