"""PPO's loop: sampling, feedback, learning, repeated."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from clearppo.batch import Prompts
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.engines.base import Engine
from clearppo.feedback import KLEstimator
from clearppo.feedback import judge as _judge
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.learning import Objective, Passes
from clearppo.learning import credit as _credit
from clearppo.learning import learn as _learn
from clearppo.learning.optimiser import Schedule, rate_scale, set_rate
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler
from clearppo.rollout import sample as _sample
from clearppo.train.track import Track


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of the loop: how rewards, advantages and learning rates are made."""

    n_iterations: int
    kl_estimator: KLEstimator = "k1"
    missing_eos_penalty: float | None = None
    whiten_rewards: bool = False
    gamma: float = 1.0
    lam: float = 1.0
    whiten_advantages: bool = False
    schedule: Schedule = "constant"
    warmup_ratio: float = 0.0


def ppo_loop(
    policy: Policy,
    prompt_batches: Iterator[Prompts],
    *,
    sampler: Sampler,
    scorer: Scorer,
    reference: Reference,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    kl: FixedKL | AdaptiveKL,
    recipe: Recipe,
    objective: Objective,
    passes: Passes,
    generator: torch.Generator,
    track: Track,
) -> None:
    """Run `recipe.n_iterations` iterations; `policy` is trained in place. One pass of the loop is one iteration."""
    watched = track.stopwatch.phase
    sample, judge = watched("sampling", _sample), watched("feedback", _judge)
    credit, learn = watched("learning", _credit), watched("learning", _learn)

    for step, prompts in zip(range(recipe.n_iterations), prompt_batches, strict=False):
        rate = set_rate(optimiser, rate_scale(step, recipe.n_iterations, recipe.schedule, recipe.warmup_ratio))
        # 采样 the pupil answers
        rollout = sample(policy, prompts, sampler, micro_batch_size=passes.micro_batch_size)
        # 反馈 the teacher marks: equations (1) and (2)
        feedback = judge(
            rollout, scorer, reference, kl_coef=kl.value, estimator=recipe.kl_estimator,
            missing_eos_penalty=recipe.missing_eos_penalty, whiten_rewards=recipe.whiten_rewards,
        )  # fmt: skip
        # 学习 the pupil improves: (3) and (4), then (5) to (9)
        experience = credit(
            rollout, feedback, gamma=recipe.gamma, lam=recipe.lam, whiten_advantages=recipe.whiten_advantages
        )
        stats = learn(policy, experience, engine, optimiser, objective=objective, passes=passes, generator=generator)
        track(step + 1, rollout, feedback, experience, stats, kl_coef=kl.value, learning_rate=rate)
        kl = kl.updated(float(feedback.kl.sum()) / len(rollout), len(rollout))
        sampler.load(policy, version=step + 1)
