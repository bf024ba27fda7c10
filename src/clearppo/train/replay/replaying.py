"""A recorded iteration, learned again from the state before it, compared with what the run kept; and otherwise.

One model in memory: what two ways of learning are compared by is put aside on the disk in between.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from clearppo.batch import Rollout
from clearppo.core.normalise import FixedMoments
from clearppo.errors import RecordError
from clearppo.learning.credit import learned_answers
from clearppo.models.policy import Analysis
from clearppo.models.whole import whole
from clearppo.record import Store, iteration_path
from clearppo.rundir import RECORD, disk_errors
from clearppo.train.checkpoint import Checkpoint, checkpoints_in
from clearppo.train.manifest import damage
from clearppo.train.metrics import REGISTRY, Measured, measure
from clearppo.train.recording import Recorder
from clearppo.train.replay.batch import RecordedBatch, judged_again, read_batch
from clearppo.train.replay.check import Check
from clearppo.train.replay.effect import Alike, Moved, alike, effect, moved_most
from clearppo.train.replay.kept import KeptRun
from clearppo.train.replay.step import Learned, Learner, Tree, learn_again, rate_factor
from clearppo.train.state_file import read_state, write_state
from clearppo.train.weights import stored_weights

_NO_LIMIT = 2**62
_PREFIX = "actor.model."
"""What the names of the policy's weights begin with, and those in its files do not."""


@dataclass(frozen=True, kw_only=True)
class Otherwise:
    """How the iteration is learned the second time: by another learner on the same policy, with another KL coefficient
    (None: the recorded one). `judged` says whether rewards have to be made anew."""

    learner: Learner
    kl_coef: float | None
    judged: bool


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What learning did: numbers by name, and vectors and tokens; `changed` are the numbers of the second way."""

    numbers: Mapping[str, float]
    changed: Mapping[str, float] | None
    gradient: Mapping[str, Alike]
    update: Mapping[str, Alike]
    tokens: list[Moved]


@dataclass(kw_only=True)
class Replaying:
    """Learns iterations again and notes in `check` whether they are what they were. `place` is an empty directory.

    `has_critic` says whether values mean anything, `last` is the iteration whose weights the final model has.
    """

    kept: KeptRun
    learner: Learner
    tokenizer: Any
    pad_id: int
    place: Path
    has_critic: bool
    last: int | None
    check: Check = field(default_factory=Check)

    def again(self, step: int) -> None:
        """Learn in an iteration as the run did."""
        batch = self.batch(step)
        if self.learner.keeps_rows:
            self.learner.look(batch)
        self._learn(batch)

    def batch(self, step: int) -> RecordedBatch:
        """What was sampled and judged in an iteration. Raises RecordError."""
        return read_batch(self.kept.recorded(step), pad_id=self.pad_id, device=self.learner.engine.device)

    def outcome(
        self,
        batch: RecordedBatch,
        state: tuple[Tree, Path] | None,
        otherwise: Otherwise | None,
        *,
        count: int,
    ) -> Outcome:
        """Learn from the last batch, and look at what that did; then `otherwise`, from the same state, and compare.

        `state` is that of this moment, where it stands on the disk already. Of tokens the `count` that moved most are
        told.
        """
        tree, directory = state or self._put_aside(whole=otherwise is not None)
        before, shown = self.learner.look(batch), _Shown(self.place / "gradient", keep=otherwise is not None)
        learned, numbers = self._learn(batch, shown)
        self._compare_weights(batch.step)
        after = self._after(self.learner, batch)
        numbers |= self._effect(self.learner, batch, learned, before, after)
        origin = {name: whole(weight) for name, weight in stored_weights(tree["weights"], directory)}
        weights = self._weights(self.learner)
        if otherwise is None:
            tokens = self._tokens(batch, learned, before, after, None, count)
            return Outcome(
                numbers=numbers, changed=None, gradient=shown.own, update=alike(weights, weights, origin), tokens=tokens
            )
        _write(self.place / "after", {"weights": weights})
        self.learner.optimiser.state.clear()  # the other one remembers in its place
        otherwise.learner.restore(tree, directory)
        changed, other, now = self._otherwise(otherwise, batch, before, shown)
        first = read_state(self.place / "after")["weights"]
        return Outcome(
            numbers=numbers,
            changed=changed,
            gradient=shown.both,
            update=alike(first, self._weights(other), origin),
            tokens=self._tokens(batch, learned, before, after, now, count),
        )

    def _learn(
        self, batch: RecordedBatch, first: Callable[[Mapping[str, Tensor]], None] | None = None
    ) -> tuple[Learned, dict[str, float]]:
        """Learn as the run did, and compare the metrics and the record."""
        learner, step = self.learner, batch.step
        recorder = self._recorder(step)
        learned = learn_again(
            learner, batch, factor=rate_factor(learner, batch), watch=recorder.watch, first=first
        )  # fmt: skip
        kl_coef = batch.meta["kl_coef"]
        recorder(
            step,
            batch.rollout,
            batch.feedback,
            learned.experience,
            kl_coef=kl_coef,
            learning_rate=learned.learning_rate,
        )
        metrics = self._measured(batch, learned, kl_coef)
        self.check.metrics_of(step, self.kept.rows[step], metrics)
        self.check.record_of(step, self.kept.recorded(step), iteration_path(self.place, step))
        return learned, metrics

    def _compare_weights(self, step: int) -> None:
        """Compare the weights with those that the run kept after this iteration, if it did."""
        learner, place = self.learner, self.kept.path
        path = checkpoints_in(place).get(step)
        if path is not None and damage(path, step) is None:
            state = Checkpoint(path, step).state
            self.check.weights_after(step, learner.learned, state["weights"], path, of=path.name)
            self.check.memory_after(step, state["late"], learner.state()["late"])
        elif self.last == step and (files := _final(place, learner)):
            state = {"prefix": _PREFIX, "files": files, "tensors": {}}
            self.check.weights_after(step, learner.learned, state, place, of="the final model")

    def _otherwise(
        self, otherwise: Otherwise, batch: RecordedBatch, before: Analysis, shown: "_Shown"
    ) -> tuple[dict[str, float], Learner, Analysis]:
        learner, factor = otherwise.learner, rate_factor(self.learner, batch)
        kl_coef = batch.meta["kl_coef"] if otherwise.kl_coef is None else otherwise.kl_coef
        reads_first = self.learner.passes.first_is_old and not learner.passes.first_is_old
        if reads_first:
            batch = replace(batch, rollout=self._seen(batch.rollout, before))
        if otherwise.judged or reads_first:
            batch = judged_again(batch, learner.recipe, kl_coef)
        if learner.keeps_rows:
            self.learner.look(batch)
        learned = learn_again(learner, batch, factor=factor, first=shown.compare)
        after = self._after(learner, batch)
        numbers = self._measured(batch, learned, kl_coef) | self._effect(learner, batch, learned, before, after)
        return numbers, learner, after

    def _seen(self, rollout: Rollout, before: Analysis) -> Rollout:
        """The rollout with the learner's own numbers for the old ones, as several steps need them."""
        values = before.values if self.has_critic else rollout.old_values
        return replace(rollout, old_log_probs=before.log_probs, old_values=values)

    def _after(self, learner: Learner, batch: RecordedBatch) -> Analysis:
        after = learner.look(batch)
        learner.policy.forget()
        return after

    def _effect(
        self, learner: Learner, batch: RecordedBatch, learned: Learned, before: Analysis, after: Analysis
    ) -> dict[str, float]:
        critic = self.has_critic and bool(learner.objective.vf_coef)
        return effect(batch, learned, learner.recipe, before, after, has_critic=critic)

    def _tokens(
        self,
        batch: RecordedBatch,
        learned: Learned,
        before: Analysis,
        after: Analysis,
        changed: Analysis | None,
        count: int,
    ) -> list[Moved]:
        recipe = self.learner.recipe
        rows = learned_answers(batch.feedback, recipe.estimator, recipe.group_size)
        return moved_most(batch, learned.experience.advantages, rows, before, after, changed, count=count)

    def _measured(self, batch: RecordedBatch, learned: Learned, kl_coef: float) -> dict[str, float]:
        """The row of metrics.jsonl."""
        rollout, earlier = batch.rollout, self.kept.rows.get(batch.step - 1, {})
        row = measure(
            Measured(
                rollout=rollout,
                feedback=batch.feedback,
                experience=learned.experience,
                stats=learned.stats,
                kl_coef=kl_coef,
                learning_rate=learned.learning_rate,
                episode=int(earlier.get("episode", 0)) + len(rollout),
                seconds={},
            )
        )
        return REGISTRY.kept(row)[0]

    def _recorder(self, step: int) -> Recorder:
        """Writes the record of an iteration as the run did, into `place`."""
        learner = self.learner
        recorder = Recorder(
            Store(self.place / RECORD, every=1, last=step, limit=_NO_LIMIT),
            self.tokenizer,
            recipe=learner.recipe,
            objective=learner.objective,
            passes=learner.passes,
            scaled=None,
            answers=None,
            note=_refuse,
        )
        recorder.begin(step - 1, FixedMoments(mean=0.0, std=1.0))
        return recorder

    def _put_aside(self, *, whole: bool) -> tuple[Tree, Path]:
        """The learner's state as it is now, or only its weights, on the disk."""
        state, directory = self.learner.state(), self.place / "before"
        _write(directory, state if whole else {"weights": state["weights"]})
        return read_state(directory), directory

    def _weights(self, learner: Learner) -> dict[str, Tensor]:
        return {name: weight.detach() for name, weight in learner.learned.items()}


def _final(place: Path, learner: Learner) -> dict[str, str]:
    """Where the final model has the weights that learn, by name."""
    files: dict[str, str] = {}
    for file in sorted(place.glob("model*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            names = [_PREFIX + name for name in stored.keys()]  # noqa: SIM118 (no dict)
            files |= {name: file.name for name in names if name in learner.learned}
    return files


class _Shown:
    """The gradients of the first optimiser step of both ways."""

    def __init__(self, directory: Path, *, keep: bool) -> None:
        self.directory = directory
        self.keep = keep
        self.own: dict[str, Alike] = {}
        self.both: dict[str, Alike] = {}

    def __call__(self, gradient: Mapping[str, Tensor]) -> None:
        self.own = self.both = alike(gradient, gradient)
        if self.keep:
            _write(self.directory, {"gradient": dict(gradient)})

    def compare(self, gradient: Mapping[str, Tensor]) -> None:
        if self.own:
            self.both = alike(read_state(self.directory)["gradient"], gradient)


def _write(directory: Path, tree: Mapping[str, Any]) -> None:
    with disk_errors(directory, any_cause=True):
        write_state(directory, tree)


def _refuse(what: str) -> None:
    raise RecordError(f"the iteration cannot be compared with its record: {what}")
