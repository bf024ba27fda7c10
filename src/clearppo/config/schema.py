"""PPOConfig: the whole configuration of `clearppo ppo`, and the rules that hold between its options."""

import math
from collections.abc import Callable
from typing import Any, ClassVar

from clearppo.config.alarms_section import AlarmsConfig, check_alarms
from clearppo.config.command import CommandConfig, explicit
from clearppo.config.data_sections import DataConfig, RewardConfig, SamplingConfig
from clearppo.config.eval_section import EvalConfig, check_evaluation
from clearppo.config.kinds import qualified_name, spelled
from clearppo.config.launch_section import LaunchConfig
from clearppo.config.learning_sections import KLConfig, PPOOptimConfig, PPOSection, PtxConfig
from clearppo.config.messages import InertOptionError, OptionError, listed
from clearppo.config.model_sections import ModelConfig
from clearppo.config.record_section import RecordConfig
from clearppo.config.rules import check_device, check_function_name, check_resume, check_warmup
from clearppo.config.run_sections import RunConfig
from clearppo.config.tracking_section import TrackingConfig, check_tracking
from clearppo.config.vllm_section import VLLMConfig, check_vllm


class PPOConfig(CommandConfig):
    """Everything that determines a PPO run. Frozen and checked at birth: a PPOConfig that exists makes sense.

    Raises ConfigError (or its subclass OptionError) for an option that is unknown, of the wrong type, out of range,
    contradicted by another, or set without having an effect.
    """

    command: ClassVar[str] = "ppo"

    model: ModelConfig
    data: DataConfig
    sampling: SamplingConfig = SamplingConfig()
    vllm: VLLMConfig = VLLMConfig()
    reward: RewardConfig
    kl: KLConfig = KLConfig()
    ppo: PPOSection = PPOSection()
    ptx: PtxConfig = PtxConfig()
    optim: PPOOptimConfig = PPOOptimConfig()
    eval: EvalConfig = EvalConfig()
    run: RunConfig
    record: RecordConfig = RecordConfig()
    cluster: LaunchConfig = LaunchConfig()
    alarm: AlarmsConfig = AlarmsConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def num_iterations(self) -> int:
        """Iterations of sample, judge, learn: total_episodes / batch_size, rounded up."""
        return math.ceil(self.run.total_episodes / self.run.batch_size)

    @property
    def mini_batch_size(self) -> int:
        """Answers an optimiser step: batch_size / num_mini_batches, which divides."""
        return self.run.batch_size // self.ppo.num_mini_batches

    @property
    def has_critic(self) -> bool:
        """Whether a critic gives credit and learns; the other estimators of advantages do without."""
        return self.ppo.advantage_estimator == "gae"

    @property
    def answers_can_end(self) -> bool:
        """Whether an answer may end before it is cut at response_length."""
        return not self.sampling.fixed_length or self.sampling.truncate_token is not None

    def check(self) -> None:
        _check_without_effect(self)
        _check_sizes(self)
        _check_rewards(self.reward)
        _check_endings(self)
        _check_kl(self)
        _check_critic_free(self)
        check_warmup(self.optim)
        check_device(self.model)
        check_tracking(self.tracking)
        check_resume(self.run)
        check_vllm(self)
        check_evaluation(self.eval, self.num_iterations, self.run.save_steps)
        check_alarms(
            self.alarm,
            save_steps=self.run.save_steps,
            kl_coef=self.kl.kl_coef,
            has_critic=self.has_critic,
            evaluated=self.eval.eval_steps is not None,
            clipped=self.ppo.cliprange is not None,
            endings=self.answers_can_end,
            batch_size=self.run.batch_size,
        )
        if self.ptx.ptx_coef and self.ptx.ptx_dataset_name is None:
            raise OptionError(
                "ptx_dataset_name",
                f"ptx_coef = {spelled(self.ptx.ptx_coef)} mixes in a language-modelling loss, and there is no text for "
                "it. Set --ptx_dataset_name FILE, or --ptx_coef 0 to do without.",
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
        check_function_name("reward_funcs", function, model="reward_model_path")
        if reward.reward_worker and not isinstance(function, str):
            _check_importable(function)
    sources = len(functions) + len(reward.reward_urls) + (reward.reward_model_path is not None)
    if not sources:
        raise OptionError(
            "reward_funcs",
            "Nothing says what a good answer is. Set --reward_funcs file.py:name (a Python function), "
            "--reward_model_path DIR (a trained reward model), --reward_urls URL (a server), or several of them.",
        )
    if weights is not None and len(weights) != sources:
        there = "is 1 reward source" if sources == 1 else f"are {sources} reward sources"
        raise OptionError(
            "reward_weights",
            f"reward_weights = {spelled(weights)} does not fit: there {there}, and it gives {len(weights)}. "
            "Give one for each, the functions in their order, then the servers, then the reward model, e.g. "
            f"--reward_weights {','.join(['1'] * sources)}.",
        )


def _check_importable(function: Callable[..., Any]) -> None:
    name = qualified_name(function)
    if name.startswith("__main__:") or "<" in name:
        raise OptionError(
            "reward_worker",
            f"reward_worker = true, and another process cannot import the function {name}. Put it into a file and give "
            "reward_funcs=['file.py:name'], or leave out reward_worker.",
        )


def _check_without_effect(config: PPOConfig) -> None:
    """Options whose effect hangs on more than one other."""
    ppo, given = config.ppo, explicit(config)
    if ppo.early_stop_kl is not None and ppo.num_ppo_epochs == 1 and ppo.num_mini_batches == 1:
        raise InertOptionError(
            "early_stop_kl",
            f"early_stop_kl = {spelled(ppo.early_stop_kl)} has no effect because num_ppo_epochs = 1 and "
            "num_mini_batches = 1: an update of one step has nothing left to stop. "
            "Add --num_ppo_epochs 4, or leave out --early_stop_kl.",
        )
    if ppo.critic_warmup_steps >= config.num_iterations:
        raise InertOptionError(
            "critic_warmup_steps",
            f"critic_warmup_steps = {ppo.critic_warmup_steps} leaves the policy nothing to learn in: this run has "
            f"{config.num_iterations} iterations. Use fewer, or a larger --total_episodes.",
        )
    beyond = [step for step in config.run.profile or () if not 1 <= step <= config.num_iterations]
    if beyond:
        raise InertOptionError(
            "profile",
            f"profile = {spelled(config.run.profile)}: there is no iteration {beyond[0]} to trace, this run has "
            f"{config.num_iterations}, counted from 1. Name some of them, or leave out --profile.",
        )
    whitens = config.reward.whiten_rewards or (ppo.whiten_advantages and ppo.advantage_estimator != "grpo")
    if ppo.unbiased_whitening and "unbiased_whitening" in given and not whitens:
        raise InertOptionError(
            "unbiased_whitening",
            "unbiased_whitening = true has no effect because nothing is whitened. "
            "Add --whiten_advantages true, or leave out --unbiased_whitening.",
        )


def _check_endings(config: PPOConfig) -> None:
    sampling, reward = config.sampling, config.reward
    penalty = "missing_eos_penalty" if reward.missing_eos_penalty is not None else "missing_eos_score"
    if reward.missing_eos_penalty is not None and reward.missing_eos_score is not None:
        raise OptionError(
            "missing_eos_score",
            f"missing_eos_score = {spelled(reward.missing_eos_score)} replaces the score that missing_eos_penalty = "
            f"{spelled(reward.missing_eos_penalty)} is subtracted from. Give only one of them.",
        )
    if not config.answers_can_end and (reward.missing_eos_penalty or reward.missing_eos_score is not None):
        raise OptionError(
            penalty,
            f"{penalty} = {spelled(getattr(reward, penalty))} would meet every answer: with fixed_length = true and no "
            f"truncate_token none ever ends. Add --truncate_token ., or leave out --{penalty}.",
        )
    if sampling.truncate_token is not None and not sampling.fixed_length:
        raise OptionError(
            "truncate_token",
            f"truncate_token = {spelled(sampling.truncate_token)} cuts answers of fixed length, and fixed_length = "
            "false. Add --fixed_length true, or use --stop_strings, which end an answer.",
        )
    if sampling.truncate_token is not None and sampling.truncate_after >= sampling.response_length:
        raise OptionError(
            "truncate_after",
            f"truncate_after = {sampling.truncate_after} lies behind the end of an answer of response_length = "
            f"{sampling.response_length} tokens. Use less than {sampling.response_length}.",
        )


def _check_critic_free(config: PPOConfig) -> None:
    estimator, n = config.ppo.advantage_estimator, config.sampling.num_generations
    if estimator in ("rloo", "grpo") and n < 2:
        raise OptionError(
            "num_generations",
            f"advantage_estimator = {estimator} compares the answers to one prompt, and num_generations = {n}. "
            "Set --num_generations 4, or --advantage_estimator gae.",
        )
    if estimator == "reinforce++" and not config.ppo.whiten_advantages:
        raise OptionError(
            "whiten_advantages",
            "whiten_advantages = false leaves advantage_estimator = reinforce++ without any baseline: the mean that "
            "whitening subtracts is the only one it has. Set --whiten_advantages true, or another estimator.",
        )
    if config.run.batch_size % n:
        raise OptionError(
            "num_generations",
            f"num_generations = {n} does not divide batch_size = {config.run.batch_size}. "
            f"Set --batch_size {max(config.run.batch_size // n, 1) * n}.",
        )


def _check_kl(config: PPOConfig) -> None:
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
