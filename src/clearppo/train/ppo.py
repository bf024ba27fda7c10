"""PPO's loop: sampling, feedback, learning, repeated."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from clearppo.batch import Prompts
from clearppo.core.advantages import AdvantageEstimator
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import ScoreScaling
from clearppo.engines.base import Engine
from clearppo.feedback import KLEstimator
from clearppo.feedback import judge as _judge
from clearppo.feedback.scorer import Scorer
from clearppo.learning import Objective, Passes, Ptx
from clearppo.learning import credit as _credit
from clearppo.learning import learn as _learn
from clearppo.learning.faults import STRICT, Guard
from clearppo.learning.optimiser import Schedule, rate_scale, set_rate
from clearppo.models.ema import EMA
from clearppo.models.policy import FrozenReference, Policy
from clearppo.rollout import Sampler, Truncation
from clearppo.rollout import sample as _sample
from clearppo.rollout.sample import OldLogProbs
from clearppo.train.faults import checked
from clearppo.train.keeping import UNKEPT, Between
from clearppo.train.track import Track


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The numbers of the loop: how answers are read, and how rewards, advantages and learning rates are made.

    In the first `critic_warmup_steps` iterations only the critic learns. `rate_factor` multiplies the rates of all.
    """

    n_iterations: int
    truncation: Truncation | None = None
    old_log_probs: OldLogProbs = "auto"
    kl_estimator: KLEstimator = "k1"
    score_clip: float | None = None
    missing_eos_penalty: float | None = None
    missing_eos_score: float | None = None
    whiten_rewards: bool = False
    estimator: AdvantageEstimator = "gae"
    group_size: int = 1
    gamma: float = 1.0
    lam: float = 1.0
    critic_lam: float | None = None
    whiten_advantages: bool = False
    unbiased_whitening: bool = False
    critic_warmup_steps: int = 0
    schedule: Schedule = "constant"
    warmup_ratio: float = 0.0
    warmup_steps: int | None = None
    warmup_start: float = 0.0
    min_lr_ratio: float = 0.0
    rate_factor: float = 1.0

    @property
    def sampling(self) -> dict[str, Any]:
        """What stays the same for `sample` in every iteration, but for its portions."""
        return {"old_log_probs": self.old_log_probs, "truncation": self.truncation}

    @property
    def judging(self) -> dict[str, Any]:
        """What stays the same for `judge` in every iteration."""
        return {
            "estimator": self.kl_estimator,
            "score_clip": self.score_clip,
            "missing_eos_penalty": self.missing_eos_penalty,
            "missing_eos_score": self.missing_eos_score,
            "whiten_rewards": self.whiten_rewards,
            "unbiased_whitening": self.unbiased_whitening,
        }

    @property
    def crediting(self) -> dict[str, Any]:
        """What stays the same for `credit` in every iteration."""
        return {
            "estimator": self.estimator,
            "group_size": self.group_size,
            "gamma": self.gamma,
            "lam": self.lam,
            "critic_lam": self.critic_lam,
            "whiten_advantages": self.whiten_advantages,
            "unbiased": self.unbiased_whitening,
        }

    def rate_scale(self, step: int) -> float:
        """The factor on the peak learning rates in iteration `step`, from 0."""
        return self.rate_factor * rate_scale(
            step,
            self.n_iterations,
            self.schedule,
            self.warmup_ratio,
            warmup_steps=self.warmup_steps,
            warmup_start=self.warmup_start,
            min_lr_ratio=self.min_lr_ratio,
        )


def ppo_loop(
    policy: Policy,
    prompt_batches: Iterator[Prompts],
    *,
    sampler: Sampler,
    scorer: Scorer,
    scaling: ScoreScaling,
    reference: FrozenReference,
    engine: Engine,
    optimiser: torch.optim.Optimizer,
    kl: FixedKL | AdaptiveKL,
    recipe: Recipe,
    objective: Objective,
    passes: Passes,
    generator: torch.Generator,
    ptx: Ptx | None,
    ema: EMA,
    track: Track,
    start: int = 0,
    between: Between = UNKEPT,
    guard: Guard = STRICT,
) -> None:
    """Run the iterations from `start` to `recipe.n_iterations`; `policy` is trained in place. One pass of the loop is
    one iteration. `prompt_batches`, `kl` and `scaling` are those of the first one; `between` them runs are kept.
    `guard` decides about numbers that are not finite.
    """
    watched = track.stopwatch.phase
    sample = watched("sampling", partial(_sample, division=engine, **recipe.sampling, **passes.portions))
    judge = watched("feedback", checked(partial(_judge, **recipe.judging), guard))
    credit = watched("learning", partial(_credit, **recipe.crediting))
    learn = partial(_learn, objective=objective, passes=passes, generator=generator, reference=reference, ptx=ptx)
    learn = watched("learning", between.learning(partial(learn, guard=guard, watch=track.watch)))

    for step, prompts in zip(range(start, recipe.n_iterations), prompt_batches, strict=False):
        rate = set_rate(optimiser, recipe.rate_scale(step))
        warming = step < recipe.critic_warmup_steps  # the policy waits for its critic
        # 采样 the pupil answers
        rollout = sample(policy, prompts, sampler)
        # 反馈 the teacher marks: equations (1) and (2)
        feedback = judge(rollout, scorer, reference, kl_coef=kl.value, scaling=scaling)
        # 学习 the pupil improves: (3) and (4), then (5) to (9)
        experience = credit(rollout, feedback)
        stats = learn(policy, experience, engine, optimiser, critic_only=warming)
        track(step + 1, rollout, feedback, experience, stats, kl_coef=kl.value, learning_rate=rate)
        # what the next iteration begins with; where nothing was learned, the KL is no sign of anything
        kl = kl.updated(float(feedback.kl.sum()) / len(rollout), 0 if warming else len(rollout))
        scaling = scaling.updated(feedback.raw_scores[feedback.scored])
        ema.update()
        sampler.load(policy, version=step + 1)
        between(step + 1, kl=kl.state(), scaling=scaling.state())  # evaluation, checkpoints, Ctrl-C
