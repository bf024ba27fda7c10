"""What is kept of an iteration: metrics.jsonl, samples.jsonl, and what the listener shows."""

from collections.abc import Mapping
from typing import Any

from clearppo.batch import Experience, Feedback, Rollout, Stats
from clearppo.rundir import RunDir
from clearppo.train.listener import Listener, SampleRow
from clearppo.train.metrics import Measured, measure
from clearppo.train.stopwatch import Stopwatch

SHOWN_ROWS = 4


class Track:
    """Called once an iteration. Writes one line of metrics, and now and then some answers."""

    def __init__(
        self, run_dir: RunDir | None, listener: Listener, *, sample_steps: int = 0, logging_steps: int = 1
    ) -> None:
        self.run_dir = run_dir
        self.listener = listener
        self.stopwatch = Stopwatch(listener)
        self.sample_steps = sample_steps
        self.logging_steps = logging_steps
        self.episodes = 0
        self.history: list[dict[str, float]] = []

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
            )
        )
        self.history.append(metrics)
        if self.run_dir is not None:
            self.run_dir.append("metrics.jsonl", [{"step": step, **metrics}])
        if step % self.logging_steps == 0:
            self.listener.iteration(step, metrics)
        if self.sample_steps and (step == 1 or step % self.sample_steps == 0):
            self._keep_samples(step, rollout, feedback)

    def _keep_samples(self, step: int, rollout: Rollout, feedback: Feedback) -> None:
        kl = feedback.kl.sum(dim=1).tolist()
        rows: list[Mapping[str, Any]] = [
            {
                "step": step,
                "prompt": rollout.prompts.texts[i],
                "completion": rollout.completions[i],
                "score": float(feedback.scores[i]),
                "kl": kl[i],
                "finish_reason": rollout.finish_reasons[i],
            }
            for i in range(len(rollout))
        ]
        if self.run_dir is not None:
            self.run_dir.append("samples.jsonl", rows)
        shown = [
            SampleRow(prompt=prompt_text(row["prompt"]), completion=row["completion"], score=row["score"], kl=row["kl"])
            for row in rows[:SHOWN_ROWS]
        ]
        self.listener.samples(step, shown)


def prompt_text(prompt: Any) -> str:
    """A prompt for people: the string itself, or the last message of a conversation."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
