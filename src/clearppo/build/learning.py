"""The part of a PPO run that learns: the policy, its optimiser, texts beside it, and the numbers of the loop."""

from collections.abc import Sequence
from typing import Any, Literal

import torch

from clearppo.build.common import (
    Loaded,
    learned_parameters,
    loading,
    micro_batch_tokens,
    optimising,
    training,
)
from clearppo.config import PPOConfig
from clearppo.data import Demonstration, SequenceSet, encode_demonstrations
from clearppo.engines.base import Engine
from clearppo.learning import Objective, Passes, Ptx, TextStream
from clearppo.learning.optimiser import adamw
from clearppo.models.actor import SeparateCritic
from clearppo.models.build import load_critic, make_policy
from clearppo.models.frozen_layers import Freeze
from clearppo.models.policy import Policy
from clearppo.rollout import Truncation
from clearppo.rollout.sample import OldLogProbs
from clearppo.train.ppo import Recipe


def make_policy_of(config: PPOConfig, engine: Engine, loaded: Loaded) -> Policy:
    """Actor and critic of a run, around the language model that was loaded for it. Raises ModelError, ConfigError."""
    critic = None
    if config.model.critic == "separate" and config.has_critic:
        start = config.model.value_model_path or loaded.path
        critic = engine.wrap(load_critic(start, loaded.tokenizer, **loading(config.model)))
    freeze = Freeze(layers=config.model.freeze_layers, rows=config.run.batch_size)
    policy = make_policy(
        engine.wrap(loaded.model),
        separate_critic=critic,
        freeze=freeze if freeze.layers else None,
        **training(config.model, engine.device),
    )
    if not config.has_critic:
        policy.critic.requires_grad_(False)  # the layer that every policy has: its values stay at 0
    return policy


def make_optimiser(config: PPOConfig, policy: Policy) -> torch.optim.Optimizer:
    """One over what learns of actor and critic."""
    return adamw(
        learned_parameters(policy.actor),
        learned_parameters(policy.critic),
        critic_learning_rate=config.optim.critic_learning_rate,
        critic_eps=config.optim.critic_adam_epsilon,
        **optimising(config.optim),
    )


def other_texts(config: PPOConfig, texts: Sequence[Demonstration], tokenizer: Any, context: int | None) -> SequenceSet:
    """The texts of PPO-ptx as `clearppo sft` would learn them: plain text whole, of an answered prompt the answer."""
    longest = config.ptx.ptx_max_length
    return encode_demonstrations(
        texts,
        tokenizer,
        max_length=longest if context is None else min(longest, context),
        room=context,
        source=str(config.ptx.ptx_dataset_name),
        option="ptx_max_length",
    )


def make_ptx(config: PPOConfig, texts: SequenceSet, padding: int, device: torch.device) -> Ptx:
    """How these texts are mixed into every step."""
    return Ptx(
        stream=TextStream(texts, pad_id=padding, seed=config.run.seed, device=device),
        coef=config.ptx.ptx_coef,
        batch_ratio=config.ptx.ptx_batch_ratio,
        reduction=config.ptx.ptx_reduction,
    )


def ppo_recipe(
    config: PPOConfig, truncation: Truncation | None = None, *, exact: bool = True, known: bool = True
) -> Recipe:
    """The loop's numbers that `config` asks for, where the sampler's log-probs are the learner's (`exact`) or not; or
    are not even `known`."""
    reward, ppo, optim = config.reward, config.ppo, config.optim
    return Recipe(
        n_iterations=config.num_iterations,
        truncation=truncation,
        old_log_probs=old_log_probs_of(config, exact, known)[0],
        kl_estimator=config.kl.kl_estimator,
        score_clip=reward.score_clip,
        missing_eos_penalty=reward.missing_eos_penalty,
        missing_eos_score=reward.missing_eos_score,
        whiten_rewards=reward.whiten_rewards,
        estimator=ppo.advantage_estimator,
        group_size=config.sampling.num_generations,
        gamma=ppo.gamma,
        lam=ppo.lam,
        critic_lam=ppo.critic_lam,
        whiten_advantages=ppo.whiten_advantages,
        unbiased_whitening=ppo.unbiased_whitening,
        critic_warmup_steps=ppo.critic_warmup_steps,
        schedule=optim.lr_scheduler_type,
        warmup_ratio=optim.warmup_ratio,
        warmup_steps=optim.warmup_steps,
        warmup_start=optim.warmup_start,
        min_lr_ratio=optim.min_lr_ratio,
    )


def ppo_objective(config: PPOConfig) -> Objective:
    """The loss that `config` asks for."""
    ppo = config.ppo
    return Objective(
        clip=ppo.cliprange,
        clip_high=ppo.cliprange_high,
        dual_clip=ppo.dual_clip,
        importance_cap=ppo.importance_cap,
        importance_level=ppo.importance_level,
        clip_value=ppo.cliprange_value,
        vf_coef=ppo.vf_coef if config.has_critic else 0.0,
        entropy_coef=ppo.entropy_coef,
        kl_loss_coef=config.kl.kl_loss_coef,
        kl_loss_estimator=config.kl.kl_loss_estimator,
    )


def make_passes(
    config: PPOConfig,
    policy: Policy,
    engine: Engine,
    *,
    tokens: int | Literal["auto"] | None,
    exact: bool,
    known: bool = True,
) -> Passes:
    """How often and in what portions the policy learns; `tokens` bounds a micro-batch. Made when all models are there:
    what they take is not free."""
    networks = [policy.actor.causal_lm]
    if isinstance(policy.critic, SeparateCritic):
        networks.append(policy.critic.classifier)
    return Passes(
        epochs=config.ppo.num_ppo_epochs,
        num_mini_batches=config.ppo.num_mini_batches,
        micro_batch_size=config.run.micro_batch_size,
        micro_batch_tokens=micro_batch_tokens(tokens, engine, networks, learned_parameters(policy)),
        max_grad_norm=config.optim.max_grad_norm,
        early_stop_kl=config.ppo.early_stop_kl,
        first_is_old=old_log_probs_of(config, exact, known)[1],
    )


def old_log_probs_of(config: PPOConfig, exact: bool, known: bool = True) -> tuple[OldLogProbs, bool]:
    """Whose numbers a rollout holds, and whether the loss takes those of its own pass instead."""
    asked = config.sampling.old_log_probs
    if asked != "auto":
        return asked, False
    if not known:
        return "learner", False
    one_step = config.ppo.num_ppo_epochs * config.ppo.num_mini_batches == 1
    return ("sampler" if exact or one_step else "learner"), one_step and not exact
