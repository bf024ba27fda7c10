"""PPOConfig: the whole configuration of `clearppo ppo`, and the rules that hold between its options."""

import math
from collections.abc import Mapping

from pydantic import model_validator

from clearppo.config.kinds import OnlyIf, flag, only_if, spelled
from clearppo.config.learning_sections import KLConfig, OptimConfig, PPOSection, RunConfig
from clearppo.config.messages import InertOptionError, OptionError, listed
from clearppo.config.sections import DataConfig, ModelConfig, RewardConfig, SamplingConfig, Section


class PPOConfig(Section):
    """Everything that determines a PPO run. Frozen and checked at birth: a PPOConfig that exists makes sense.

    Raises ConfigError (or its subclass OptionError) for an option that is unknown, of the wrong type, out of range,
    contradicted by another, or set without having an effect.
    """

    model: ModelConfig
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardConfig
    kl: KLConfig = KLConfig()
    ppo: PPOSection = PPOSection()
    optim: OptimConfig = OptimConfig()
    run: RunConfig

    @property
    def num_iterations(self) -> int:
        """Iterations of sample, judge, learn: total_episodes / batch_size, rounded up."""
        return math.ceil(self.run.total_episodes / self.run.batch_size)

    @property
    def mini_batch_size(self) -> int:
        """Answers an optimiser step: batch_size / num_mini_batches, which divides."""
        return self.run.batch_size // self.ppo.num_mini_batches

    @model_validator(mode="after")
    def _makes_sense(self) -> "PPOConfig":
        _check_inert(self)
        _check_sizes(self)
        _check_rewards(self.reward)
        _check_others(self)
        return self


def sections() -> Mapping[str, type[Section]]:
    """Name and model of each section, in the order of the help and of the resolved config."""
    found: dict[str, type[Section]] = {}
    for name, field in PPOConfig.model_fields.items():
        assert isinstance(field.annotation, type)
        assert issubclass(field.annotation, Section)
        found[name] = field.annotation
    return found


def values(config: PPOConfig) -> dict[str, object]:
    """Every option's value by its name, flat, in the schema's order."""
    return {leaf: value for section in sections() for leaf, value in section_of(config, section)}


def section_of(config: PPOConfig, section: str) -> list[tuple[str, object]]:
    """The options of one section with their values."""
    return list(dict(config)[section])


def inert(config: PPOConfig) -> dict[str, OnlyIf]:
    """The options that have no effect under this configuration, each with the condition that does not hold."""
    value = values(config)
    return {
        leaf: condition
        for section in sections().values()
        for leaf, field in section.model_fields.items()
        for condition in only_if(field)
        if not condition.holds(value[condition.option])
    }


def explicit(config: PPOConfig) -> frozenset[str]:
    """The names of the options that were set, rather than left at their defaults."""
    return frozenset(leaf for _, section in config for leaf in section.model_fields_set)


def _check_inert(config: PPOConfig) -> None:
    """None and False are let through: they say that a thing is off, which it is."""
    value, given = values(config), explicit(config)
    for leaf, condition in inert(config).items():
        if leaf in given and value[leaf] is not None and value[leaf] is not False:
            raise InertOptionError(
                leaf,
                f"{leaf} = {spelled(value[leaf])} has no effect because {condition.option} = "
                f"{spelled(value[condition.option])}: {condition.because}. "
                f"Add {condition.mend}, or leave out {flag(leaf)}.",
            )
    one_step = config.ppo.num_ppo_epochs == 1 and config.ppo.num_mini_batches == 1
    if config.ppo.early_stop_kl is not None and one_step:
        raise InertOptionError(
            "early_stop_kl",
            f"early_stop_kl = {spelled(config.ppo.early_stop_kl)} has no effect because num_ppo_epochs = 1 and "
            "num_mini_batches = 1: an update of one step has nothing left to stop. "
            "Add --num_ppo_epochs 4, or leave out --early_stop_kl.",
        )


def _check_sizes(config: PPOConfig) -> None:
    batch, parts = config.run.batch_size, config.ppo.num_mini_batches
    if batch % parts:
        divisors = [n for n in range(1, batch + 1) if batch % n == 0]
        near = [*[n for n in divisors if n < parts][-1:], *[n for n in divisors if n > parts][:1]]
        raise OptionError(
            "num_mini_batches",
            f"num_mini_batches = {parts} does not divide batch_size = {batch}. "
            f"Use {listed([str(n) for n in near], 'or')}, or set --batch_size {max(batch // parts, 1) * parts}.",
        )
    if config.run.total_episodes < batch:
        raise OptionError(
            "total_episodes",
            f"total_episodes = {config.run.total_episodes} is less than batch_size = {batch}, not even one iteration. "
            f"Set --total_episodes {batch} or more, or --batch_size {config.run.total_episodes}.",
        )


def _check_rewards(reward: RewardConfig) -> None:
    functions, weights = reward.reward_funcs, reward.reward_weights
    for function in functions:
        place, colon, name = function.rpartition(":") if isinstance(function, str) else ("x", ":", "x")
        if not (place and colon and all(part.isidentifier() for part in name.split("."))):
            raise OptionError(
                "reward_funcs",
                f"reward_funcs = {spelled(function)} does not name a function. Write --reward_funcs file.py:name "
                "or package.module:name; for a trained reward model use --reward_model_path.",
            )
    sources = len(functions) + (reward.reward_model_path is not None)
    if not sources:
        raise OptionError(
            "reward_funcs",
            "Nothing says what a good answer is. Set --reward_funcs file.py:name (a Python function), "
            "--reward_model_path DIR (a trained reward model), or both.",
        )
    if weights is not None and len(weights) != sources:
        there = "is 1 reward source" if sources == 1 else f"are {sources} reward sources"
        raise OptionError(
            "reward_weights",
            f"reward_weights = {spelled(weights)} does not fit: there {there}, and it gives {len(weights)}. "
            "Give one for each, the functions in their order, then the reward model, e.g. "
            f"--reward_weights {','.join(['1'] * sources)}.",
        )


def _check_others(config: PPOConfig) -> None:
    if config.kl.kl_controller == "adaptive" and config.kl.kl_coef == 0:
        raise OptionError(
            "kl_controller",
            "kl_controller = adaptive multiplies kl_coef, and kl_coef = 0 stays 0 whatever it is multiplied with. "
            "Set --kl_coef 0.05, or --kl_controller fixed.",
        )
    if config.kl.kl_controller == "adaptive" and config.run.batch_size * 0.2 >= config.kl.kl_horizon:
        raise OptionError(
            "kl_horizon",
            f"kl_horizon = {spelled(config.kl.kl_horizon)} is too short for batch_size = {config.run.batch_size}: one "
            f"update could turn kl_coef negative. Use more than {config.run.batch_size // 5}; 10000 is usual.",
        )
    if config.model.device == "mps" and config.model.dtype == "float64":
        raise OptionError(
            "dtype", "dtype = float64 does not exist on device = mps. Set --device cpu, or --dtype float32."
        )
