"""A run of supervised training from its parts to its files: announce, loop, conclude, save."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from clearppo.batch import Stats, portions
from clearppo.config import RewardModelConfig, SFTConfig, dump_config
from clearppo.data import ComparisonSet, SequenceSet
from clearppo.engines.base import Engine
from clearppo.models.network import Network
from clearppo.models.saving import written
from clearppo.models.whole import held
from clearppo.plan.result import Plan
from clearppo.rundir import RunDir
from clearppo.train.card import CardKind, model_card
from clearppo.train.checkpoint import Checkpoint, Checkpoints
from clearppo.train.doctor.brief import in_brief
from clearppo.train.doctor.supervised import step_findings
from clearppo.train.faults import Faults
from clearppo.train.keeping import Keeper
from clearppo.train.listener import Listener, Summary
from clearppo.train.marks import data_mark, is_new_adapter, weights_mark
from clearppo.train.parts import optimiser_part
from clearppo.train.planned import Planned
from clearppo.train.shortage import memory_told
from clearppo.train.supervised import Course, StepTrack, supervised_loop
from clearppo.train.watchdog import watched_over

ConfigT = TypeVar("ConfigT", SFTConfig, RewardModelConfig)
RowsT = TypeVar("RowsT", SequenceSet, ComparisonSet)


@dataclass(kw_only=True)
class SupervisedRun(ABC, Generic[ConfigT, RowsT]):
    """What the runs of SFT and of a reward model have in common; each adds its model and what is done with it.

    At most `micro_batch_tokens` tokens pass through the model at once, padding included; None is no bound. `resume` is
    the checkpoint that the run goes on from, if it does; all else is as at the start of a run.
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
    checkpoints: Checkpoints
    resume: Checkpoint | None
    plan: Plan | None = None
    numbers: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def train(self) -> list[dict[str, float]]:
        """Train, conclude and save; from the checkpoint on, where there is one to go on from. Returns the metrics of
        every step.

        If it ends early, by an error or a signal, it can be gone on with: a signal has the step finished and writes a
        checkpoint; after an error the model as it is then is in output_dir/interrupted; then the error goes on. A run
        that is finished and shall go on is left as it is.
        """
        keeper, n = self.keeper, self.course.n_steps
        done = self.resume.step if self.resume else 0
        self.listener.started(replace(self.summary, done=done), n)
        if self.config.run.resume_from_checkpoint == "auto" and keeper.done(self.resume):
            return keeper.left_as_it_is(self.resume)
        start = self._fresh() if self.resume is None else self._resumed(self.resume)
        with (
            self.track.trackers.running(self.config, self.summary, note=self.listener.note),
            watched_over(self.config.run.watchdog_minutes, lambda: self.track.stopwatch.now, self.run_dir),
            keeper.kept(self.save),
            self.engine.together(),
            self._memory_told(),
        ):
            keeper.begin(**start)
            supervised_loop(
                self.course,
                learn=self.learn,
                evaluate=self.evaluate,
                optimiser=self.optimiser,
                generator=torch.Generator().manual_seed(self.config.run.seed),
                track=self.track,
                start=start["step"],
                between=keeper,
            )
            keeper.ended()
            self.conclude()
            self.listener.phase("saving")
            self.save(".", f"Trained for {n} steps.")
            keeper.finish()
            self._planned.ended(self.track.history)
            self.engine.share(lambda: None)  # nobody reads the result before it is there
        self.listener.finished()
        return self.track.history

    @property
    def _planned(self) -> Planned:
        return Planned(
            plan=self.plan, run_dir=self.run_dir, listener=self.listener, stopwatch=self.track.stopwatch
        )  # fmt: skip

    @cached_property
    def faults(self) -> Faults:
        """Decides about numbers that are not finite."""
        most, track = self.config.run.max_bad_steps, self.track
        place = self.run_dir if self.engine.rank == 0 else None
        return Faults(place, self.listener, max_bad_steps=most, step=lambda: len(track.history) + 1)

    def _memory_told(self) -> AbstractContextManager[None]:
        return memory_told(
            self.config, lambda: self.track.stopwatch.now[0], tokens=self.micro_batch_tokens,
            free=self.engine.free_memory,
        )  # fmt: skip

    @cached_property
    def keeper(self) -> Keeper:
        """Keeps the run. Made before anything is learned: it notes what the start model is."""
        run = self.config.run
        return Keeper(
            run_dir=self.run_dir,
            listener=self.listener,
            checkpoints=self.checkpoints,
            history=self.track.history,
            every=run.save_steps,
            n_rounds=self.course.n_steps,
            learned=dict(self.network.trainable()),
            prefix="model.",
            save_model=self.save_adapter if self.config.model.use_peft else self.save_model,
            early={"trackers": self.track.trackers, "faults": self.faults},
            late={"optimiser": optimiser_part(self.optimiser)},
            marks=self._marks() if run.save_steps or self.resume else {},
            numbers={
                "device": str(self.engine.device),
                "max_tokens_per_microbatch": self.micro_batch_tokens,
                "processes": self.engine.world,
                **self.numbers,
            },
            allow_changed=run.allow_changed_options,
            round="step",
            engine=self.engine,
            saved_weights=lambda: self.gathered(adapter=self.config.model.use_peft),
        )

    def _fresh(self) -> dict[str, Any]:
        """Look at the rows, and make the directory the run's own. Where the loop starts."""
        objective = self.summary.objective
        rows = self.learned, self.held_out
        for line in in_brief(step_findings(self.config, self.tokenizer, self.network, *rows, objective)):
            self.listener.note(line)
        self.run_dir.begin()
        self.run_dir.write("config.yaml", dump_config(self.config))
        self.keeper.announce(self.summary.objective)
        self._planned.begun()
        return {"step": 0}

    def _resumed(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Put everything back, and take the directory back too. Where the loop starts."""
        start = self.keeper.restore(checkpoint)
        self.keeper.rewind(checkpoint)
        self.run_dir.write("config.yaml", dump_config(self.config))
        self.keeper.announce(self.summary.objective)
        self._planned.begun()
        return start

    def _marks(self) -> dict[str, str]:
        """What the run reads, as digests: under these names it is called in messages."""
        weights = self.network.named_parameters()
        start = weights_mark([(name, weight) for name, weight in weights if not is_new_adapter(name, weight)])
        return {"training rows": data_mark(self.learned), "start model": start}

    def evaluate(self) -> Stats:
        """Stats of all held-out rows; no stats if there are none."""
        seen = Stats.empty()
        if self.held_out is not None:
            for rows in portions(self.held_out.lengths, max_rows=self.config.run.micro_batch_size):
                seen += self.measure(self.held_out, rows)
        return seen

    def save(self, name: str, ended: str) -> None:
        """The model, what belongs to it and its card below output_dir; each file appears whole. The first of several
        processes writes."""
        first = self.engine.rank == 0
        with self.run_dir.whole(name) as directory, held(self.gathered(adapter=False), here=first):
            if first:
                self.save_model(directory)
                (directory / "README.md").write_text(self._card(ended), encoding="utf-8")

    def _card(self, ended: str) -> str:
        return model_card(
            kind=self.card,
            base_model=self.config.model.model_name_or_path,
            summary=self.summary,
            history=self.track.history,
            ended=ended,
            found=self.found(),
        )

    def gathered(self, *, adapter: bool) -> list[Tensor]:
        """The weights that one process will read to write the model, or its `adapter` alone; all call this before."""
        return written(self.network, adapter=adapter)

    @property
    @abstractmethod
    def network(self) -> Network:
        """What learns."""

    @abstractmethod
    def save_adapter(self, directory: Path) -> None:
        """With LoRA: write what was learned alone, below `directory`."""

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
