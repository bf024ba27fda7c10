"""A run of supervised fine-tuning from its parts to its files: announce, loop, save."""

from dataclasses import dataclass
from typing import Any

import torch

from clearppo.batch import Stats
from clearppo.config import SFTConfig, dump_config
from clearppo.data.demonstrations import SequenceSet
from clearppo.engines.base import Engine
from clearppo.learning.sft import learn_demonstrations, measure_demonstrations
from clearppo.models.actor import Actor
from clearppo.models.saving import save_actor, save_adapter
from clearppo.rundir import RunDir
from clearppo.train.card import SFT, model_card
from clearppo.train.listener import Listener, Summary
from clearppo.train.supervised import Course, StepTrack, by_length, rescued, supervised_loop


@dataclass(frozen=True, kw_only=True)
class SFTRun:
    """Everything that `train` needs. build_steps.py makes one from an SFTConfig."""

    config: SFTConfig
    actor: Actor
    engine: Engine
    optimiser: torch.optim.Optimizer
    learned: SequenceSet
    held_out: SequenceSet | None
    course: Course
    tokenizer: Any
    pad_id: int
    run_dir: RunDir
    listener: Listener
    summary: Summary
    track: StepTrack

    def train(self) -> list[dict[str, float]]:
        """Train and save. Returns the metrics of every step.

        If a run ends early (an error that ClearPPO understands, or Ctrl-C) after at least one step, the model as it is
        then is saved in output_dir/interrupted, and the error goes on.
        """
        self.listener.started(self.summary, self.course.n_steps)
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        with rescued(self.save, self.course, self.track, self.run_dir):
            supervised_loop(
                self.course,
                learn=self.learn,
                evaluate=self.evaluate,
                optimiser=self.optimiser,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                track=self.track,
            )
        self.listener.phase("saving")
        self.save(".", f"Trained for {self.track.steps} steps.")
        self.listener.finished()
        return self.track.history

    def learn(self, rows: list[int]) -> Stats:
        """One optimiser step on these rows."""
        return learn_demonstrations(
            self.actor,
            self.learned.batch(rows, self.pad_id).to(self.engine.device),
            self.engine,
            self.optimiser,
            micro_batch_size=self.config.run.micro_batch_size,
            max_grad_norm=self.config.optim.max_grad_norm,
        )

    def evaluate(self) -> Stats:
        """The loss on all held-out rows; no stats if there are none."""
        seen, size = Stats.empty(), self.config.run.micro_batch_size
        if self.held_out is not None:
            for rows in by_length(self.held_out.lengths, size):
                batch = self.held_out.batch(rows, self.pad_id).to(self.engine.device)
                seen += measure_demonstrations(self.actor, batch, micro_batch_size=size)
        return seen

    def save(self, name: str, ended: str) -> None:
        """The model and its card below output_dir; each file appears whole."""
        with self.run_dir.whole(name) as directory:
            save_actor(self.actor, self.tokenizer, directory)
            if self.config.model.use_peft:
                save_adapter(self.actor, directory / "adapter")
            card = model_card(
                kind=SFT,
                base_model=self.config.model.model_name_or_path,
                objective=self.summary.objective,
                facts=self.summary.facts,
                history=self.track.history,
                ended=ended,
            )
            (directory / "README.md").write_text(card, encoding="utf-8")
