"""A PPO run from its parts to its files: announce, check, loop, save."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from clearppo.batch import Prompts
from clearppo.config import PPOConfig, dump_config
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.core.normalise import ScoreScaling
from clearppo.data import PromptSet, prompt_batches
from clearppo.engines.base import Engine
from clearppo.feedback.scorer import Scorer
from clearppo.learning import Objective, Passes, Ptx
from clearppo.models.ema import EMA
from clearppo.models.policy import FrozenReference, Policy
from clearppo.models.saving import save_actor, save_adapter, save_critic
from clearppo.rollout import Sampler
from clearppo.rundir import RunDir
from clearppo.train.card import model_card, ppo_card
from clearppo.train.listener import Listener, Summary
from clearppo.train.ppo import Recipe, ppo_loop
from clearppo.train.profile import profiled
from clearppo.train.reference_scores import reference_moments
from clearppo.train.rescue import rescued
from clearppo.train.selfcheck import self_check
from clearppo.train.track import Track


@dataclass(frozen=True, kw_only=True)
class PPORun:
    """Everything that `train` needs. build/ppo.py makes one from a PPOConfig.

    `scaling` None: the scores are scaled by those of the start policy's answers, which are measured before the loop.
    """

    config: PPOConfig
    policy: Policy
    reference: FrozenReference
    sampler: Sampler
    scorer: Scorer
    scaling: ScoreScaling | None
    engine: Engine
    optimiser: torch.optim.Optimizer
    kl: FixedKL | AdaptiveKL
    recipe: Recipe
    objective: Objective
    passes: Passes
    ptx: Ptx | None
    prompts: PromptSet
    tokenizer: Any
    pad_id: int
    run_dir: RunDir
    listener: Listener
    summary: Summary
    track: Track

    def train(self) -> list[dict[str, float]]:
        """Train and save. Returns the metrics of every iteration.

        If a run ends early (an error that ClearPPO understands, or Ctrl-C) after at least one iteration, the policy
        as it is then is saved in output_dir/interrupted, and the error goes on.
        """
        self.listener.started(self.summary, self.recipe.n_iterations)
        self.listener.note(str(self_check(self.policy, self.reference, self.sampler, next(self._batches()))))
        scaling = self.scaling or self._measured_scaling()
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        ema = EMA(self.policy.actor, self.config.run.ema_decay)
        with rescued(
            lambda name, ended: self.save(name, ended, ema), self.track.history, self.recipe.n_iterations,
            round="iteration", noun="policy", run_dir=self.run_dir, listener=self.listener,
        ), self._profiled() as batches:  # fmt: skip
            ppo_loop(
                self.policy,
                batches,
                sampler=self.sampler,
                scorer=self.scorer,
                scaling=scaling,
                reference=self.reference,
                engine=self.engine,
                optimiser=self.optimiser,
                kl=self.kl,
                recipe=self.recipe,
                objective=self.objective,
                passes=self.passes,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                ptx=self.ptx,
                ema=ema,
                track=self.track,
            )
        self.listener.phase("saving")
        self.save(".", f"Trained for {len(self.track.history)} iterations.", ema)
        self.listener.finished()
        return self.track.history

    def save(self, name: str, ended: str, ema: EMA) -> None:
        """The policy, its critic, its average and the model card below output_dir; each file appears whole."""
        model = self.config.model
        with self.run_dir.whole(name) as directory:
            save_actor(self.policy.actor, self.tokenizer, directory)
            if self.config.has_critic:
                save_critic(self.policy, self.tokenizer, directory / "value_model")
            if model.use_peft:
                save_adapter(self.policy.actor, directory / "adapter")
            if ema.decay is not None:
                with ema.applied():
                    save_actor(self.policy.actor, self.tokenizer, directory / "ema_model")
            (directory / "README.md").write_text(
                model_card(
                    kind=ppo_card(critic=self.config.has_critic, average=ema.decay is not None),
                    base_model=model.model_name_or_path,
                    summary=self.summary,
                    history=self.track.history,
                    ended=ended,
                ),
                encoding="utf-8",
            )

    def _measured_scaling(self) -> ScoreScaling:
        self.listener.phase("measuring")
        moments, n = reference_moments(
            self.policy, self._batches(), self.sampler, self.scorer, self.reference, truncation=self.recipe.truncation,
            **self.passes.portions,
        )  # fmt: skip
        self.listener.note(
            f"scores are scaled by those of {n} answers of the start model: mean {moments.mean:.4g}, standard "
            f"deviation {moments.std:.4g}"
        )
        return moments

    def _profiled(self) -> AbstractContextManager[Iterator[Prompts]]:
        chosen = self.config.run.profile or ()
        device = self.engine.device
        return profiled(self._batches(), chosen, run_dir=self.run_dir, listener=self.listener, device=device)

    def _batches(self) -> Iterator[Prompts]:
        run = self.config.run
        batches = prompt_batches(
            self.prompts, run.batch_size, self.recipe.n_iterations, run.seed, self.pad_id,
            self.config.sampling.num_generations,
        )  # fmt: skip
        return (prompts.to(self.engine.device) for prompts in batches)
