"""Which options may be other ones when a recorded iteration is learned again, and why the rest may not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import cast

from clearppo.config.command import values
from clearppo.config.kinds import spelled
from clearppo.config.leaves import canonical, leaves
from clearppo.config.load import load_config
from clearppo.config.messages import nearest
from clearppo.config.schema import PPOConfig
from clearppo.config.yaml_file import Given, read_file
from clearppo.errors import ConfigError

SETTABLE = (
    "learning_rate", "critic_learning_rate", "adam_beta1", "adam_beta2", "adam_epsilon", "critic_adam_epsilon",
    "weight_decay", "max_grad_norm", "num_ppo_epochs", "num_mini_batches", "advantage_estimator", "gamma", "lam",
    "critic_lam", "cliprange", "cliprange_high", "dual_clip", "importance_cap", "importance_level",
    "cliprange_value", "vf_coef", "critic_warmup_steps", "entropy_coef", "whiten_advantages", "unbiased_whitening",
    "early_stop_kl", "kl_coef",
    "kl_estimator", "kl_loss_coef", "kl_loss_estimator", "score_clip", "missing_eos_penalty", "missing_eos_score",
    "whiten_rewards", "ptx_coef", "ptx_batch_ratio", "ptx_reduction", "micro_batch_size", "max_tokens_per_microbatch",
)  # fmt: skip
"""What decides how an iteration is learned from answers that are there."""
SHORT: Mapping[str, str] = MappingProxyType(
    {
        "clip": "cliprange",
        "clip_high": "cliprange_high",
        "clip_value": "cliprange_value",
        "lr": "learning_rate",
        "critic_lr": "critic_learning_rate",
        "epochs": "num_ppo_epochs",
        "mini_batches": "num_mini_batches",
        "estimator": "advantage_estimator",
        "lambda": "lam",
        "entropy": "entropy_coef",
        "kl": "kl_coef",
        "grad_norm": "max_grad_norm",
    }
)
"""What people say for short; beside the names that every command knows."""
SCHEDULE = frozenset({"lr_scheduler_type", "min_lr_ratio", "warmup_ratio", "warmup_steps", "warmup_start"})
CONTROLLER = frozenset({"kl_controller", "kl_target", "kl_horizon"})
WHY_NOT: Mapping[str, str] = MappingProxyType(
    {
        "model": "the weights are those of the run",
        "data": "the prompts are those of the record",
        "vllm": "the answers are those of the record, sampled before",
        "sampling": "the answers are those of the record, sampled before",
        "reward": "the scores are those of the record, and nobody is asked again",
        "ptx": "the texts are those of the run",
    }
)
"""By section, for what is not SETTABLE."""
_FLAG = re.compile(r"(?:[Ss]et )?--([a-z_0-9]+)(?: (\d[\d.e+-]*\d|\d|true|false|gae))?")


def read_resolved(path: Path) -> dict[str, Given]:
    """The options that a run's config.yaml holds. What falls asleep beside a changed one may be left out silently, as a
    recipe's. Functions in it need not be there any more: nobody calls them. Raises ConfigError."""
    found, _ = read_file(PPOConfig, path)
    functions = found.get("reward_funcs")
    if functions is not None and isinstance(functions.value, list):
        count = len(cast("list[object]", functions.value))
        found["reward_funcs"] = replace(functions, value=[f"recorded:source{i}" for i in range(count)])
    return {name: replace(source, recipe=True) for name, source in found.items()}


def options_of(given: Mapping[str, Given]) -> PPOConfig:
    """The configuration of a run, as `read_resolved` found it. Raises ConfigError."""
    return load_config(PPOConfig, given=given)


def changed(given: Mapping[str, Given], settings: Sequence[str]) -> tuple[PPOConfig, dict[str, str]]:
    """The configuration with settings such as `cliprange=0.1`, and the options that they set, as typed.

    Raises ConfigError for a setting that is none, an option that is not SETTABLE, given twice, or as it was already.
    """
    wanted: dict[str, str] = {}
    for setting in settings:
        typed, equals, value = setting.partition("=")
        name = _name(typed.strip().removeprefix("--"), setting, bool(equals and value.strip()))
        if name in wanted:
            raise ConfigError(f"--set {name} is given twice: {wanted[name]} and {value.strip()}. Give it only once.")
        wanted[name] = value.strip()
    try:
        after = load_config(PPOConfig, given=given, flags=wanted)
    except ConfigError as error:
        raise ConfigError(_FLAG.sub(_as_setting, str(error))) from None
    return after, wanted


def same_as_before(name: str, value: object) -> ConfigError:
    """The error for an option that is set to what it was."""
    return ConfigError(
        f"--set {name}={spelled(value)} changes nothing: that is what it was in this iteration. Give another value, or "
        "leave it out."
    )


def what_differs(before: PPOConfig, after: PPOConfig, names: Sequence[str]) -> dict[str, tuple[object, object]]:
    """The values of some options before and after."""
    was, now = values(before), values(after)
    return {name: (was[name], now[name]) for name in names}


def _name(typed: str, setting: str, whole: bool) -> str:
    plain = typed.replace("-", "_")
    name = SHORT.get(plain, canonical(plain))
    if not whole:
        raise ConfigError(f"--set {setting} is no setting. Write --set NAME=VALUE, such as --set cliprange=0.1.")
    known = leaves(PPOConfig)
    if name not in known:
        near = nearest(plain, [*SETTABLE, *SHORT])
        hint = f"Did you mean {near}?" if near else "What can be set is listed by clearppo replay --help."
        raise ConfigError(f"--set {setting}: there is no option {typed}. {hint}")
    if name not in SETTABLE:
        raise ConfigError(
            f"--set {setting} cannot be tried on one recorded iteration: {_why_not(name)}. What can be set is "
            "listed by clearppo replay --help."
        )
    return name


def _why_not(name: str) -> str:
    if name in SCHEDULE:
        return "a schedule speaks of many iterations; set learning_rate"
    if name in CONTROLLER:
        return "a controller chooses later coefficients; set kl_coef"
    if name == "adam_style":
        return "what the optimiser remembers is of the other style"
    return WHY_NOT.get(leaves(PPOConfig)[name].section, "it has no part in what is learned from answers")


def _as_setting(found: re.Match[str]) -> str:
    """A flag in an error's words, as replay takes it."""
    name, value = found.groups()
    if name not in SETTABLE:
        return found[0]
    return f"--set {name}" if value is None else f"--set {name}={value}"
