"""评估: the policy is measured on held-out prompts while it learns, and nothing of its training notices."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clearppo.batch import Prompts
from clearppo.feedback.reference import Reference
from clearppo.feedback.scorer import Scorer
from clearppo.models.policy import Policy
from clearppo.rollout import Sampler, Truncation
from clearppo.rundir import EVALUATION, RunDir
from clearppo.train.chance import undisturbed_chance
from clearppo.train.checkpoint import Best
from clearppo.train.eval_metrics import SCORE, WIN_RATE, Measured, given, measure, source_metric, won
from clearppo.train.evaluation import Evaluation, evaluate, mean_interval
from clearppo.train.listener import Table
from clearppo.train.track import Track, prompt_text

LABELS = {
    "eval/kl": "KL from the reference, nats an answer",
    "eval/length": "tokens an answer",
    "eval/clipped_ratio": "cut at response_length",
    "eval/repetition": "repeated 4-grams",
}


@dataclass(frozen=True, kw_only=True)
class Choice:
    """By which metric the best step is chosen, and in which direction."""

    metric: str
    greater: bool

    def prefers(self, value: float, best: Best | None) -> bool:
        """Whether a value is better than the best so far; an equal one is not."""
        return best is None or (value > best.value if self.greater else value < best.value)


@dataclass(kw_only=True)
class EvaluationInLoop:
    """Measures the policy as it is, on the same prompts and with the same random numbers each time.

    `scorers` has what is optimised under "score", and every held-out measure under its name. `make_sampler` gives a
    sampler on the policy's present weights that starts anew; `mark` is a digest of the prompts and of how they are
    answered. It is due before the first iteration (step 0: the start model, against which every later win rate is),
    every `every` iterations, and after the last of `n_iterations`.

    What is left of a measurement: evaluation/step-N.jsonl with every answer, a line of eval/ numbers in metrics.jsonl,
    a table; `track` has the numbers in the iteration's own row, and its trackers all of it. `best` is the best step so
    far by `choice`. Nothing that training reads is changed: the global generators are put back, and what frozen layers
    kept is forgotten, as after every iteration.
    """

    policy: Policy
    prompts: Prompts
    make_sampler: Callable[[], Sampler]
    reference: Reference
    scorers: Mapping[str, Scorer]
    portions: Mapping[str, Any]
    truncation: Truncation | None
    kl_temperature: float | None
    every: int
    n_iterations: int
    choice: Choice | None
    mark: str
    run_dir: RunDir
    track: Track
    start: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    at_start: dict[str, float] = field(default_factory=dict[str, float])
    best: Best | None = None

    def due(self, step: int) -> bool:
        """Whether to measure after so many iterations."""
        return step % self.every == 0 or step == self.n_iterations

    def __call__(self, step: int) -> bool:
        """Measure, and keep what was found. Returns whether this step is the best so far; the start model never is.

        Raises RewardError as the scorers do, TrainingError as sampling does, RunDirError.
        """
        self.track.listener.phase("evaluating")
        with undisturbed_chance():
            now = evaluate(
                self.policy,
                self.prompts,
                sampler=self.make_sampler(),
                reference=self.reference,
                scorers=self.scorers,
                truncation=self.truncation,
                kl_temperature=self.kl_temperature,
                **self.portions,
            )
        self.policy.forget()
        measured = Measured(now=now, start=self.start if step else {})
        metrics = measure(measured)
        if step == 0:
            self.start = {name: list(scores) for name, scores in now.scores.items()}
            self.at_start = metrics
        elif len(self.track.history) >= step:
            self.track.history[step - 1].update(metrics)
        rows = answer_rows(step, self.prompts, measured)
        self.run_dir.write(f"{EVALUATION}/step-{step}.jsonl", "".join(map(_line, rows)))
        self.run_dir.append("metrics.jsonl", [{"step": step, **metrics}])
        self.track.trackers.metrics(step, metrics)
        self.track.trackers.table("eval_samples", step, *_sample_table(rows))
        self.track.listener.table(self._table(step, measured, metrics))
        return step > 0 and self._is_best(step, metrics)

    def state(self) -> dict[str, Any]:
        """What later measurements depend on: the start model's scores, and the best so far."""
        best = None if self.best is None else vars(self.best).copy()
        return {"mark": self.mark, "start": dict(self.start), "at_start": dict(self.at_start), "best": best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from where another run's evaluation stood.

        Where it measured other prompts or by other measures, the start model's scores do not fit, and win rates that
        cannot be told are left out, with a note; so is a best step by another metric.
        """
        start = state["start"] if state["mark"] == self.mark else {}
        self.start = {name: list(scores) for name, scores in start.items() if name in self.scorers}
        self.at_start = dict(state["at_start"]) if self.start else {}
        if unknown := [name for name in self.scorers if name not in self.start]:
            self.track.listener.note(
                f"the checkpoint does not know how the start model's answers to these held-out prompts score by "
                f"{', '.join(unknown)}: without them there is no win rate"
            )
        best = state["best"]
        if best is not None and self.choice is not None and best["metric"] == self.choice.metric:
            self.best = Best(**best)

    def _is_best(self, step: int, metrics: Mapping[str, float]) -> bool:
        if self.choice is None or self.choice.metric not in metrics:
            return False
        value = metrics[self.choice.metric]
        if not self.choice.prefers(value, self.best):
            return False
        self.best = Best(step=step, metric=self.choice.metric, value=value)
        self.track.trackers.summary({"best/step": step, f"best/{self.choice.metric}": value})
        return True

    def _table(self, step: int, measured: Measured, metrics: Mapping[str, float]) -> Table:
        n = len(self.prompts)
        scores = {"eval/score": measured.now.scores[SCORE]}
        scores |= {source_metric(name): values for name, values in measured.measures.items()}
        rows: list[tuple[str, ...]] = []
        for name, value in metrics.items():
            known = given(scores.get(name, ()))
            interval = f"± {mean_interval(known)[1]:.3f}" if len(known) > 1 else ""
            rows.append((_label(name), _shown(name, self.at_start.get(name)), _shown(name, value), interval))
        where = "before the first iteration" if step == 0 else f"after iteration {step} of {self.n_iterations}"
        title = f"{n} held-out prompt{'s' * (n > 1)} {where}"
        return Table(title=title, columns=("", "start", "now", "95 %"), rows=tuple(rows))


def answer_rows(step: int, prompts: Prompts, measured: Measured) -> list[dict[str, Any]]:
    """Every answer with what was measured of it; None where a source gave no score."""
    now: Evaluation = measured.now
    against_start = won(measured, SCORE) or [math.nan] * len(prompts)
    return [
        {
            "step": step,
            "prompt": prompts.texts[i],
            "completion": now.completions[i],
            "score": _or_none(now.scores[SCORE][i]),
            "rewards": {name: _or_none(scores[i]) for name, scores in measured.measures.items()},
            "won": _or_none(against_start[i]),
            "kl": now.kl[i],
            "length": now.lengths[i],
            "finish_reason": now.finish_reasons[i],
        }
        for i in range(len(prompts))
    ]


def _sample_table(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str | float]]]:
    """Columns and rows as trackers take them: words and numbers, NaN for what was not given."""
    cells: list[dict[str, Any]] = [
        {**row, "prompt": prompt_text(row["prompt"]), **{f"rewards/{k}": v for k, v in row["rewards"].items()}}
        for row in rows
    ]
    columns = [name for name in cells[0] if name not in ("step", "rewards")]
    return columns, [[math.nan if row[name] is None else row[name] for name in columns] for row in cells]


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False) + "\n"


def _label(name: str) -> str:
    if name == "eval/score":
        return "score (optimised)"
    if name.startswith(WIN_RATE):
        by = name.removeprefix(WIN_RATE).removeprefix("/")
        return f"win rate against the start model{f', by {by}' if by else ''}"
    return LABELS.get(name, f"score of {name.removeprefix(source_metric(''))}")


def _shown(name: str, value: float | None) -> str:
    if value is None:
        return ""
    if name.startswith(WIN_RATE) or name in ("eval/clipped_ratio", "eval/repetition"):
        return f"{value:.1%}"
    return f"{value:.1f}" if name == "eval/length" else f"{value:.3f}"
