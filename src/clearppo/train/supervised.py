"""The loop of `clearppo sft` and `clearppo reward`: a batch, a step, now and then a look at the held-out rows."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch

from clearppo.batch import Stats
from clearppo.data.batching import length_grouped
from clearppo.engines.peak import Peak
from clearppo.learning.optimiser import set_rate
from clearppo.rundir import RunDir
from clearppo.train.keeping import UNKEPT, Between
from clearppo.train.listener import Listener
from clearppo.train.records import keep
from clearppo.train.registry import Registry
from clearppo.train.step_metrics import Step, measure
from clearppo.train.stopwatch import Stopwatch
from clearppo.train.tracking import Trackers


@dataclass(frozen=True, kw_only=True)
class Course:
    """How long, in what portions and at which rates is learned.

    `lengths` says of each training row how long its longest text is, for rows of similar length come together, and
    `tokens` how many tokens it has in all. `rate(step, n_steps)` is the factor on the peak learning rate in step 0, 1,
    ... Every row comes once an epoch; one batch of an epoch is smaller where batch_size does not divide the rows.
    """

    lengths: Sequence[int]
    tokens: Sequence[int]
    batch_size: int
    epochs: float
    max_steps: int | None
    eval_steps: int | None
    rate: Callable[[int, int], float]

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps a pass over the rows."""
        return math.ceil(len(self.lengths) / self.batch_size)

    @property
    def n_steps(self) -> int:
        """Optimiser steps in all; a part of an epoch is rounded up to whole steps."""
        # 0.1 * 30 is a little more than 3 in binary, and must not become 4.
        return self.max_steps or max(math.ceil(round(self.epochs * self.steps_per_epoch, 6)), 1)

    def evaluates_after(self, step: int) -> bool:
        """Whether the held-out rows are looked at after step 1, 2, ...: as asked for, and at the end."""
        return step % (self.eval_steps or self.steps_per_epoch) == 0 or step == self.n_steps

    def batches(self, generator: torch.Generator) -> Iterator[list[int]]:
        """The rows of each step."""

        def endless() -> Iterator[list[int]]:
            while True:
                yield from length_grouped(self.lengths, self.batch_size, generator)

        return islice(endless(), self.n_steps)


class StepTrack:
    """Called once a step. Writes its line of metrics, and tells the listener."""

    def __init__(
        self,
        registry: Registry[Step],
        run_dir: RunDir | None,
        listener: Listener,
        *,
        logging_steps: int = 1,
        trackers: Trackers | None = None,
        peak: Peak | None = None,
        waited: Callable[[], float] | None = None,
    ) -> None:
        self.registry = registry
        self.run_dir = run_dir
        self.listener = listener
        self.trackers = trackers or Trackers()
        self.stopwatch = Stopwatch(listener, peak, waited)
        self.logging_steps = logging_steps
        self.history: list[dict[str, float]] = []

    def __call__(
        self, step: int, stats: Stats, held_out: Stats, *, epoch: float, tokens: int, learning_rate: float
    ) -> None:
        finished = Step(
            stats=stats,
            held_out=held_out,
            epoch=epoch,
            tokens=tokens,
            learning_rate=learning_rate,
            seconds=self.stopwatch.lap(),
            memory=self.stopwatch.peaks(),
            communication=self.stopwatch.talks(),
        )
        metrics = measure(self.registry, finished)
        self.history.append(metrics)
        if self.run_dir is not None:
            keep(self.run_dir, step, metrics, self.registry)
        self.trackers.metrics(step, metrics)
        if step % self.logging_steps == 0 or held_out.counts:
            self.listener.iteration(step, metrics)


def supervised_loop(
    course: Course,
    *,
    learn: Callable[[list[int]], Stats],
    evaluate: Callable[[], Stats],
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    track: StepTrack,
    start: int = 0,
    between: Between = UNKEPT,
) -> None:
    """Run the course behind its first `start` steps. `learn` takes a step on these rows; `evaluate` looks at all
    held-out rows (no stats: none). `between` steps the run is kept."""
    watched = track.stopwatch.phase
    timed_learn, timed_evaluate = watched("learning", between.learning(learn)), watched("evaluating", evaluate)
    seen = 0
    for step, rows in enumerate(course.batches(generator), start=1):
        if step <= start:
            seen += len(rows)
            continue
        rate = set_rate(optimiser, course.rate(step - 1, course.n_steps))
        stats = timed_learn(rows)
        held_out = timed_evaluate() if course.evaluates_after(step) else Stats.empty()
        seen += len(rows)
        tokens = sum(course.tokens[row] for row in rows)
        track(step, stats, held_out, epoch=seen / len(course.lengths), tokens=tokens, learning_rate=rate)
        between(step)
