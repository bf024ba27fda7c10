"""Checkpoints: what a run needs to go on as if it had never stopped, below output_dir.

checkpoint-12/
  config.json, model.safetensors, ...   the model as the final result has it (LoRA: adapter/)
  config.yaml                           the options of the run, resolved
  training_state/                       everything else (state_file.py)
    shards/                             of weights that are shared out: each process's part (shards.py)
  manifest.json                         written last: size and SHA-256 of every file
best.json                               which checkpoint was the best so far, and by what

A checkpoint is written beside, brought to the disk, and renamed: under its name it is whole. Whether it still is when
it is read, the manifest says.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from clearppo.errors import CheckpointError
from clearppo.rundir import CHECKPOINT, GONE, SAVING, RunDir, disk_errors
from clearppo.train.manifest import MANIFEST, STATE, damage, manifest_of, seal, sync
from clearppo.train.shards import Way
from clearppo.train.state_file import SHARDS, read_state, write_state

BEST, CONFIG = "best.json", "config.yaml"


@dataclass(frozen=True)
class Checkpoint:
    """A directory whose every file is what its manifest says. Model files lie below `path`, `step` rounds were done."""

    path: Path
    step: int

    @cached_property
    def state(self) -> dict[str, Any]:
        """The tree that was given to `Checkpoints.write`, read when it is first asked for; tensors on the CPU."""
        return read_state(self.path / STATE)

    def release(self) -> None:
        """Give up what was read of the state, and with it the hold on its files."""
        self.__dict__.pop("state", None)


@dataclass(frozen=True, kw_only=True)
class Best:
    """The step whose model was the best by a metric when it was measured, and the metric's value there."""

    step: int
    metric: str
    value: float


class Checkpoints:
    """The checkpoints of one run. `limit` says how many are kept (None: all); `note` is told what people should know.

    Nothing is written or removed before a method is called.
    """

    def __init__(self, run_dir: RunDir, *, limit: int | None, note: Callable[[str], None]) -> None:
        self.run_dir = run_dir
        self.limit = limit
        self.note = note

    def write(
        self,
        step: int,
        state: Mapping[str, Any],
        save_model: Callable[[Path], None],
        *,
        best: "Best | None" = None,
    ) -> Checkpoint:
        """Write checkpoint-`step`, one that has this name already being replaced; mark it if it is the `best`; then
        remove the oldest above `limit`.

        `save_model` writes the model's files into the directory that it is given. config.yaml is the run's own.
        Until the new checkpoint is whole and on the disk nothing that was there before is touched: there must be room
        for one more than `limit`. Raises RunDirError if the disk refuses; then nothing of the new one is left.
        """
        self.begin(step, state, save_model)
        return self.end(step, best=best)

    def begin(self, step: int, state: Mapping[str, Any], save_model: Callable[[Path], None]) -> dict[str, Way]:
        """The first half of `write`, after which `end` or `give_up` must follow. Returns the names of the tensors in
        `state` that are shared out, each with the way to it: every process writes its rows of them into `shards`."""
        beside = self._beside(step)
        with disk_errors(self._target(step), any_cause=True):
            self.run_dir.sync()  # a checkpoint must not be longer-lived than the metrics up to it
            if beside.exists():
                shutil.rmtree(beside)
            beside.mkdir()
            try:
                save_model(beside)
                config = self.run_dir.path / CONFIG
                if config.exists():
                    shutil.copyfile(config, beside / CONFIG)
                shared_out = write_state(beside / STATE, state)
                if shared_out:
                    self.shards(step).mkdir()
            except BaseException:
                self.give_up(step)
                raise
        return shared_out

    def end(
        self, step: int, sealed: Mapping[str, Mapping[str, Any]] | None = None, *, best: "Best | None" = None
    ) -> Checkpoint:
        """The second half of `write`. The files in `shards` are those of `sealed`, with their size and SHA-256, which
        who wrote them has found."""
        target, beside = self._target(step), self._beside(step)
        whole = False
        with disk_errors(target, any_cause=True):
            try:
                seal(beside, step, sealed or {})
                whole = True
                if target.exists():
                    self._remove(target)
                beside.rename(target)
                sync(self.run_dir.path)
            except BaseException:
                if not whole or target.exists():  # else it is the only one, and `newest` will give it its name
                    self.give_up(step)
                raise
        written = Checkpoint(target, step)
        if best is not None:
            self.mark_best(written, best.metric, best.value)
        self._prune(step)
        return written

    def give_up(self, step: int) -> None:
        """Leave nothing of what was begun."""
        shutil.rmtree(self._beside(step), ignore_errors=True)

    def shards(self, step: int) -> Path:
        """Where each process writes its part, between `begin` and `end`."""
        return self._beside(step) / STATE / SHARDS

    def _target(self, step: int) -> Path:
        return self.run_dir.path / f"{CHECKPOINT}{step}"

    def _beside(self, step: int) -> Path:
        return self.run_dir.path / f"{SAVING}{CHECKPOINT}{step}"

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None if there is none. Each damaged one is named in a note, and passed
        over. What a killed writer has left is removed; if only the name was missing, it is given its name.

        Raises CheckpointError if there are some and none is whole: starting afresh would delete them.
        """
        with disk_errors(self.run_dir.path, any_cause=True):
            self._tidy()
        found: list[str] = []
        for step, path in sorted(self._there().items(), reverse=True):
            wrong = damage(path, step)
            if wrong is None:
                return Checkpoint(path, step)
            found.append(f"{path.name} ({wrong})")
            self.note(f"{path.name} is damaged and passed over: {wrong}")
        if found:
            raise CheckpointError(
                f"no checkpoint in {self.run_dir.path} is whole: {', '.join(found)}. Mend them, or give "
                "--overwrite_output_dir true without --resume_from_checkpoint to start afresh."
            )
        return None

    def back(self, step: int) -> Checkpoint | None:
        """The newest whole checkpoint of before round `step`; without one the oldest whole one; None without any."""
        whole = [Checkpoint(path, there) for there, path in sorted(self._there().items()) if not damage(path, there)]
        before = [checkpoint for checkpoint in whole if checkpoint.step < step]
        return before[-1] if before else whole[0] if whole else None

    @staticmethod
    def open(path: Path) -> Checkpoint:
        """The checkpoint in this directory, of this run or of another.

        Raises CheckpointError, in one sentence, for none and for a damaged one.
        """
        if not path.is_dir():
            raise CheckpointError(
                f"resume_from_checkpoint = {path} is no directory. Give one that is called {CHECKPOINT}N, or auto."
            )
        if not (path / MANIFEST).exists():
            inside = sorted(entry.name for entry in path.glob(f"{CHECKPOINT}*"))
            mend = f"Give one of {', '.join(inside)} below it, or auto." if inside else "Give another, or auto."
            raise CheckpointError(f"resume_from_checkpoint = {path} is no checkpoint: it has no {MANIFEST}. {mend}")
        wrong = damage(path)
        if wrong is not None:
            raise CheckpointError(
                f"resume_from_checkpoint = {path} is damaged: {wrong}. Give an earlier one, or auto, which takes the "
                "newest that is whole."
            )
        return Checkpoint(path, manifest_of(path)["step"])

    def forget_after(self, step: int) -> None:
        """Remove the checkpoints, and the marks of best ones, of steps after this one: the run goes another way."""
        with disk_errors(self.run_dir.path, any_cause=True):
            later = [path for there, path in sorted(self._there().items()) if there > step]
            for path in later:
                self._remove(path)
            marks = self._marks()
            if any(mark.step > step for mark in marks):
                self._write_marks([mark for mark in marks if mark.step <= step])

    def mark_best(self, checkpoint: Checkpoint, metric: str, value: float) -> None:
        """Note in best.json that this checkpoint is the best so far; it stays, whatever `limit` says."""
        kept = [mark for mark in self._marks() if mark.step < checkpoint.step]
        self._write_marks([*kept, Best(step=checkpoint.step, metric=metric, value=value)])

    def restore_best(self, best: Best, *, of: Path) -> None:
        """Mark the best checkpoint again where a kill came before its mark; and take it along from the directory `of`
        if the run goes on in another one. One that is nowhere is not marked. Raises RunDirError."""
        target = self.run_dir.path / f"{CHECKPOINT}{best.step}"
        source = of / target.name
        if not target.exists() and damage(source, best.step) is None:
            with disk_errors(target, any_cause=True):
                beside = target.with_name(f"{SAVING}{target.name}")
                shutil.rmtree(beside, ignore_errors=True)
                shutil.copytree(source, beside)
                beside.rename(target)
                sync(self.run_dir.path)
        if target.exists() and self.best != best:
            self.mark_best(Checkpoint(target, best.step), best.metric, best.value)

    @property
    def best(self) -> Best | None:
        """What was last marked as the best, or None. A best.json that cannot be read counts as none."""
        marks = self._marks()
        return marks[-1] if marks else None

    def _marks(self) -> list[Best]:
        """Every checkpoint that was the best at its time, the earliest first, so that a run can go back."""
        try:
            rows = json.loads((self.run_dir.path / BEST).read_text(encoding="utf-8"))["best"]
            return sorted(
                (Best(step=int(row["step"]), metric=str(row["metric"]), value=float(row["value"])) for row in rows),
                key=lambda mark: mark.step,
            )
        except FileNotFoundError:
            return []
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            self.note(f"{BEST} cannot be read ({error}): no checkpoint counts as the best")
            return []

    def _write_marks(self, marks: list[Best]) -> None:
        text = json.dumps({"best": [asdict(mark) for mark in marks]}, indent=1)
        self.run_dir.write(BEST, text + "\n")

    def _there(self) -> dict[int, Path]:
        return checkpoints_in(self.run_dir.path)

    def _prune(self, newest: int) -> None:
        if self.limit is None:
            return
        best = self.best
        kept = {newest} | ({best.step} if best else set())
        for step, path in sorted(self._there().items(), reverse=True):
            if step not in kept and len(kept) >= self.limit:
                self._remove(path)
            else:
                kept.add(step)

    def _remove(self, path: Path) -> None:
        """Take a checkpoint away: first its name, so that a kill in the middle leaves none that looks damaged."""
        gone = Path(tempfile.mkdtemp(dir=self.run_dir.path, prefix=GONE))
        path.rename(gone / path.name)
        shutil.rmtree(gone, ignore_errors=True)

    def _tidy(self) -> None:
        """Finish what a killed writer was about to do."""
        for path in _entries(self.run_dir.path):
            found = re.fullmatch(rf"{re.escape(SAVING)}({CHECKPOINT}([0-9]+))", path.name)
            target = self.run_dir.path / found[1] if found else None
            if found and target and not target.exists() and damage(path, int(found[2])) is None:
                path.rename(target)
        self.run_dir.tidy()


def shared(find: Callable[[], Checkpoint | None], share: Callable[[Callable[[], Any]], Any]) -> Checkpoint | None:
    """The checkpoint that one of several processes finds, for all: `share` tells them. Raises as `find`."""

    def found() -> tuple[str, int] | None:
        checkpoint = find()
        return None if checkpoint is None else (str(checkpoint.path), checkpoint.step)

    told = share(found)
    return None if told is None else Checkpoint(Path(told[0]), told[1])


def checkpoints_in(directory: Path) -> dict[int, Path]:
    """All directories in a run's that are called checkpoint-N, whole or not, by N."""
    names = ((re.fullmatch(rf"{CHECKPOINT}(0|[1-9][0-9]*)", path.name), path) for path in _entries(directory))
    return {int(found[1]): path for found, path in names if found and path.is_dir()}


def _entries(directory: Path) -> list[Path]:
    """What lies in a directory, if it is one, in the order of the names."""
    return sorted(directory.iterdir()) if directory.is_dir() else []
