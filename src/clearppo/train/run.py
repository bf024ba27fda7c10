"""A PPO run from its parts to its files: announce, check, loop, save."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from clearppo.batch import Prompts
from clearppo.config import PPOConfig, dump_config
from clearppo.core.kl import AdaptiveKL, FixedKL
from clearppo.data import PromptSet, prompt_batches
from clearppo.engines.base import Engine
from clearppo.errors import ClearPPOError
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.learning import Objective, Passes
from clearppo.models.policy import Policy
from clearppo.models.saving import save_actor, save_adapter, save_critic
from clearppo.rollout import Sampler
from clearppo.rundir import RunDir
from clearppo.train.card import model_card
from clearppo.train.listener import Listener, Summary
from clearppo.train.ppo import Recipe, ppo_loop
from clearppo.train.selfcheck import self_check
from clearppo.train.track import Track


@dataclass(frozen=True, kw_only=True)
class PPORun:
    """Everything that `train` needs. build.py makes one from a PPOConfig."""

    config: PPOConfig
    policy: Policy
    reference: Reference
    sampler: Sampler
    scorer: Scorer
    engine: Engine
    optimiser: torch.optim.Optimizer
    kl: FixedKL | AdaptiveKL
    recipe: Recipe
    objective: Objective
    passes: Passes
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
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        try:
            ppo_loop(
                self.policy,
                self._batches(),
                sampler=self.sampler,
                scorer=self.scorer,
                reference=self.reference,
                engine=self.engine,
                optimiser=self.optimiser,
                kl=self.kl,
                recipe=self.recipe,
                objective=self.objective,
                passes=self.passes,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                track=self.track,
            )
        except (ClearPPOError, KeyboardInterrupt) as error:
            self._rescue(error)
            raise
        self.listener.phase("saving")
        self.save(".", f"Trained for {self.track.iterations} iterations.")
        self.listener.finished()
        return self.track.history

    def save(self, name: str, ended: str) -> None:
        """The policy, its critic and the model card below output_dir; each file appears whole."""
        model = self.config.model
        with self.run_dir.whole(name) as directory:
            save_actor(self.policy.actor, self.tokenizer, directory)
            save_critic(self.policy, self.tokenizer, directory / "value_model")
            if model.use_peft:
                save_adapter(self.policy.actor, directory / "adapter")
            (directory / "README.md").write_text(
                model_card(
                    base_model=model.model_name_or_path,
                    objective=self.summary.objective,
                    facts=self.summary.facts,
                    history=self.track.history,
                    ended=ended,
                ),
                encoding="utf-8",
            )

    def _batches(self) -> Iterator[Prompts]:
        run = self.config.run
        batches = prompt_batches(self.prompts, run.batch_size, self.recipe.n_iterations, run.seed, self.pad_id)
        return (prompts.to(self.engine.device) for prompts in batches)

    def _rescue(self, error: BaseException) -> None:
        """Save what has been learned before the error takes the process away. Never hides the error."""
        if self.track.iterations == 0:
            return
        said = self._quietly(
            lambda: self.save(
                "interrupted",
                f"Ended early after {self.track.iterations} of {self.recipe.n_iterations} iterations: "
                f"{type(error).__name__}.",
            )
        )
        place = self.run_dir.path / "interrupted"
        self.listener.note(
            f"the policy after {self.track.iterations} iterations is in {place}"
            if said is None
            else f"not saved: {said}"
        )

    @staticmethod
    def _quietly(action: Callable[[], None]) -> ClearPPOError | None:
        try:
            action()
        except ClearPPOError as error:
            return error
        return None
