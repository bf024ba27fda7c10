"""What is kept of an iteration: metrics.jsonl, samples.jsonl, the record, and what the listener shows."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from clearppo.batch import Experience, Feedback, Rollout, Stats
from clearppo.core.normalise import ScoreScaling
from clearppo.engines.peak import Peak
from clearppo.learning import Watch
from clearppo.learning.faults import SKIPPED
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, SampleRow
from clearppo.train.metrics import REGISTRY, Measured, measure
from clearppo.train.records import keep
from clearppo.train.stopwatch import Stopwatch
from clearppo.train.tracking import Trackers

SHOWN_ROWS = 4
SAMPLE_COLUMNS = ("prompt", "completion", "score", "kl", "finish_reason")
"""What trackers are told of an answer."""


@runtime_checkable
class Record(Protocol):
    """Keeps what every token earned (train/recording.py)."""

    @property
    def watch(self) -> Watch | None:
        """What learning is to show its micro-batches."""
        ...

    def begin(self, step: int, scaling: ScoreScaling) -> None:
        """So many iterations are done, and this is the scaling of scores that the next begins with."""
        ...

    def __call__(
        self,
        step: int,
        rollout: Rollout,
        feedback: Feedback,
        experience: Experience,
        *,
        kl_coef: float,
        learning_rate: float,
    ) -> None:
        """Iteration `step` is over."""
        ...

    def state(self) -> Any: ...

    def load_state(self, state: Any, /) -> None: ...


class Track:
    """Called once an iteration. Writes one line of metrics, and now and then some answers; and the record."""

    def __init__(
        self,
        run_dir: RunDir | None,
        listener: Listener,
        *,
        sample_steps: int = 0,
        logging_steps: int = 1,
        trackers: Trackers | None = None,
        record: Record | None = None,
        peak: Peak | None = None,
        waited: Callable[[], float] | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.listener = listener
        self.trackers = trackers or Trackers()
        self.record = record
        self.stopwatch = Stopwatch(listener, peak, waited)
        self.sample_steps = sample_steps
        self.logging_steps = logging_steps
        self.episodes = 0
        self.history: list[dict[str, float]] = []

    @property
    def watch(self) -> Watch | None:
        """What learning is to show its micro-batches, for the record."""
        return None if self.record is None else self.record.watch

    def begin(self, step: int, scaling: ScoreScaling) -> None:
        """So many iterations are done, and this is the scaling of scores that the next begins with."""
        if self.record is not None:
            self.record.begin(step, scaling)

    def state(self) -> dict[str, int]:
        """How many answers there were: what a later iteration's numbers depend on."""
        return {"episodes": self.episodes}

    def load_state(self, state: Mapping[str, int]) -> None:
        """Go on behind so many answers."""
        self.episodes = state["episodes"]

    def __call__(
        self,
        step: int,
        rollout: Rollout,
        feedback: Feedback,
        experience: Experience,
        stats: Stats,
        *,
        kl_coef: float,
        learning_rate: float,
    ) -> None:
        self.episodes += len(rollout)
        metrics = measure(
            Measured(
                rollout=rollout,
                feedback=feedback,
                experience=experience,
                stats=stats,
                kl_coef=kl_coef,
                learning_rate=learning_rate,
                episode=self.episodes,
                seconds=self.stopwatch.lap(),
                memory=self.stopwatch.peaks(),
                staleness=step - 1 - rollout.policy_version,
                communication=self.stopwatch.talks(),
            )
        )
        self.history.append(metrics)
        if self.run_dir is not None:
            keep(self.run_dir, step, metrics, REGISTRY)
        self.trackers.metrics(step, metrics)
        if step % self.logging_steps == 0:
            self.listener.iteration(step, metrics)
        if self.sample_steps and (step == 1 or step % self.sample_steps == 0):
            self._keep_samples(step, rollout, feedback)
        if self.record is not None:
            self.record(step, rollout, feedback, experience, kl_coef=kl_coef, learning_rate=learning_rate)

    def left_out(self, step: int, n_answers: int, n_steps: int) -> None:
        """An iteration of so many answers that could not be learned from, in as many steps as it would have had."""
        self.episodes += n_answers
        self.stopwatch.lap()
        self.stopwatch.peaks()
        metrics = {"episode": float(self.episodes), SKIPPED: float(n_steps)}
        self.history.append(metrics)
        if self.run_dir is not None:
            keep(self.run_dir, step, metrics, REGISTRY)
        self.trackers.metrics(step, metrics)

    def _keep_samples(self, step: int, rollout: Rollout, feedback: Feedback) -> None:
        kl = feedback.kl.sum(dim=1).tolist()
        rows: list[Mapping[str, Any]] = [
            {
                "step": step,
                "prompt": rollout.prompts.texts[i],
                "completion": rollout.completions[i],
                "score": float(feedback.scores[i]) if feedback.scored[i] else None,
                "kl": kl[i],
                "finish_reason": rollout.finish_reasons[i],
            }
            for i in range(len(rollout))
        ]
        if self.run_dir is not None:
            self.run_dir.append("samples.jsonl", rows)
        self.trackers.table("samples", step, SAMPLE_COLUMNS, [sample_cells(row) for row in rows])
        shown = [
            SampleRow(
                prompt=prompt_text(row["prompt"]),
                completion=row["completion"],
                score=math.nan if row["score"] is None else row["score"],
                kl=row["kl"],
            )
            for row in rows[:SHOWN_ROWS]
        ]
        self.listener.samples(step, shown)


def sample_cells(row: Mapping[str, Any]) -> list[str | float]:
    """A row of samples.jsonl as trackers are told of it, in the order of SAMPLE_COLUMNS; no score is nan."""
    score = math.nan if row["score"] is None else row["score"]
    return [prompt_text(row["prompt"]), row["completion"], score, row["kl"], row["finish_reason"]]


def prompt_text(prompt: Any) -> str:
    """A prompt for people: the string itself, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
