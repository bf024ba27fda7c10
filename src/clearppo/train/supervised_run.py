"""A run of supervised training from its parts to its files: announce, loop, conclude, save."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch

from clearppo.batch import Stats, portions
from clearppo.config import RewardModelConfig, SFTConfig, dump_config
from clearppo.data import ComparisonSet, SequenceSet
from clearppo.engines.base import Engine
from clearppo.rundir import RunDir
from clearppo.train.card import CardKind, model_card
from clearppo.train.listener import Listener, Summary
from clearppo.train.rescue import rescued
from clearppo.train.supervised import Course, StepTrack, supervised_loop

ConfigT = TypeVar("ConfigT", SFTConfig, RewardModelConfig)
RowsT = TypeVar("RowsT", SequenceSet, ComparisonSet)


@dataclass(kw_only=True)
class SupervisedRun(ABC, Generic[ConfigT, RowsT]):
    """What the runs of SFT and of a reward model have in common; each adds its model and what is done with it.

    At most `micro_batch_tokens` tokens pass through the model at once, padding included; None is no bound.
    """

    card: ClassVar[CardKind]

    config: ConfigT
    engine: Engine
    optimiser: torch.optim.Optimizer
    learned: RowsT
    held_out: RowsT | None
    course: Course
    tokenizer: Any
    pad_id: int
    micro_batch_tokens: int | None
    run_dir: RunDir
    listener: Listener
    summary: Summary
    track: StepTrack

    def train(self) -> list[dict[str, float]]:
        """Train, conclude and save. Returns the metrics of every step.

        If a run ends early (an error that ClearPPO understands, or Ctrl-C) after at least one step, the model as it is
        then is saved in output_dir/interrupted, and the error goes on.
        """
        history, n_steps = self.track.history, self.course.n_steps
        self.listener.started(self.summary, n_steps)
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        with rescued(self.save, history, n_steps, round="step", run_dir=self.run_dir, listener=self.listener):
            supervised_loop(
                self.course,
                learn=self.learn,
                evaluate=self.evaluate,
                optimiser=self.optimiser,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                track=self.track,
            )
            self.conclude()
        self.listener.phase("saving")
        self.save(".", f"Trained for {len(history)} steps.")
        self.listener.finished()
        return history

    def evaluate(self) -> Stats:
        """Stats of all held-out rows; no stats if there are none."""
        seen = Stats.empty()
        if self.held_out is not None:
            for rows in portions(self.held_out.lengths, max_rows=self.config.run.micro_batch_size):
                seen += self.measure(self.held_out, rows)
        return seen

    def save(self, name: str, ended: str) -> None:
        """The model, what belongs to it and its card below output_dir; each file appears whole."""
        with self.run_dir.whole(name) as directory:
            self.save_model(directory)
            card = model_card(
                kind=self.card,
                base_model=self.config.model.model_name_or_path,
                summary=self.summary,
                history=self.track.history,
                ended=ended,
                found=self.found(),
            )
            (directory / "README.md").write_text(card, encoding="utf-8")

    @abstractmethod
    def learn(self, rows: list[int]) -> Stats:
        """One optimiser step on these rows of `learned`."""

    @abstractmethod
    def measure(self, held_out: RowsT, rows: list[int]) -> Stats:
        """The loss and its companions on these held-out rows, at most a micro-batch of them."""

    @abstractmethod
    def save_model(self, directory: Path) -> None:
        """Write the model, its tokenizer and what belongs to it."""

    def conclude(self) -> None:
        """What is done with the trained model before it is saved."""

    def found(self) -> str:
        """What the card says of the trained model beside numbers."""
        return ""
