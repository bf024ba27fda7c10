"""What a run needs to go on as if it had never stopped: taken at the end of a round, put back at the start of another.

A checkpoint is always of the moment between two rounds (PPO's iterations, the steps of SFT and of a reward model). What
sampling and judging may change is small, and is noted when a round begins; weights, their average and the optimiser
change in learning only. So a round that is given up before it has learned can still be kept from its beginning.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar, runtime_checkable

import torch
from torch import nn

from clearppo.engines.base import Engine
from clearppo.errors import CheckpointError, ClearPPOError, StopRequested
from clearppo.models.whole import held, is_shared_out
from clearppo.rundir import RunDir
from clearppo.train.alarms import RunAlarms
from clearppo.train.chance import undisturbed_chance
from clearppo.train.checkpoint import Best, Checkpoint, Checkpoints
from clearppo.train.listener import Listener
from clearppo.train.parts import CHANCE, Kept
from clearppo.train.records import TIMINGS, recorded
from clearppo.train.sharding import write_shards
from clearppo.train.stopping import Stopping
from clearppo.train.undisturbed import undisturbed
from clearppo.train.weights import load_weights, weights_state

STARTED, FINISHED = "started.json", "finished.json"
P = ParamSpec("P")
R = TypeVar("R")


def machine() -> dict[str, Any]:
    """What the last bits of a number depend on here, beside the device."""
    return {"clearppo": version("clearppo"), "torch": str(torch.__version__), "threads": torch.get_num_threads()}


@runtime_checkable
class Evaluating(Protocol):
    """Looks at the model between two rounds, and leaves no trace in the run."""

    def due(self, step: int) -> bool:
        """Whether to look after so many rounds."""
        ...

    def __call__(self, step: int) -> bool:
        """Look, and keep what was found. Whether this is the best step so far."""
        ...

    @property
    def best(self) -> Best | None:
        """The best step so far."""
        ...


@runtime_checkable
class Between(Protocol):
    """What a loop knows of all this: one call at the end of a round, and a word when learning begins."""

    def learning(self, learn: Callable[P, R]) -> Callable[P, R]:
        """`learn`, which says that the round cannot be given up any more."""
        ...

    def __call__(self, step: int, **loop: Any) -> None:
        """So many rounds are done; `loop` is what the next one begins with."""
        ...


class Unkept:
    """Nothing is kept, nothing measured, and nobody can stop it."""

    def learning(self, learn: Callable[P, R]) -> Callable[P, R]:
        return learn

    def __call__(self, step: int, **loop: Any) -> None:
        pass


UNKEPT = Unkept()


@dataclass(kw_only=True)
class Keeper:
    """Keeps a run: checkpoints every `every` rounds (0: none, and a signal ends the run as it ends any program).
    `history` are the numbers of each round so far.

    `learned` are the weights that learn, by name; those whose name begins with `prefix` may stand in the files that
    `save_model` writes. `early` parts may change while a round samples and judges, `late` ones in learning only.
    On what the run depends beside its options say `marks`, digests of what it reads, and `numbers`: a checkpoint with
    other marks is refused, unless `allow_changed`, and other numbers are a note. `forget` drops what a round left
    behind that no result depends on but for its last bits. `watch` looks for alarms when a round is over. Of several
    processes (`engine`) the first one reads and writes the files of the run; `saved_weights` are those that
    `save_model` writes, which may be shared out.
    """

    run_dir: RunDir
    listener: Listener
    checkpoints: Checkpoints
    history: list[dict[str, float]]
    every: int
    n_rounds: int
    learned: Mapping[str, nn.Parameter]
    prefix: str
    save_model: Callable[[Path], None]
    early: dict[str, Kept]
    late: dict[str, Kept]
    marks: Mapping[str, str]
    numbers: Mapping[str, Any]
    allow_changed: bool = False
    forget: Callable[[], None] = lambda: None
    evaluation: Evaluating | None = None
    watch: RunAlarms | None = None
    engine: Engine
    saved_weights: Callable[[], Iterable[torch.Tensor]] = tuple
    round: str = "iteration"
    noun: str = "model"
    step: int = field(default=0, init=False)
    newest: Checkpoint | None = field(default=None, init=False)
    _exact: bool = field(default=True, init=False)
    _noted: dict[str, Any] = field(default_factory=dict[str, Any], init=False)
    _stopping: Stopping = field(init=False)

    def __post_init__(self) -> None:
        self.early.setdefault("chance", CHANCE)
        gather = self.engine.gather if self.engine.world > 1 else None
        self._stopping = Stopping(self.listener, round=self.round, gather=gather)

    def announce(self, objective: str) -> None:
        """Note for who looks at the run: what it optimises, how long, and what its last bits depend on. Raises
        RunDirError."""
        about = {"rounds": self.n_rounds, "objective": objective, "numbers": self.numbers, "machine": machine()}
        self.run_dir.write(STARTED, json.dumps(about, ensure_ascii=False) + "\n")

    def learning(self, learn: Callable[P, R]) -> Callable[P, R]:
        """See Between."""

        def begun(*args: P.args, **kwargs: P.kwargs) -> R:
            if self.every:
                self._stopping.agree()
            self._stopping.interruptible = False
            self._exact = False
            return learn(*args, **kwargs)

        return begun

    def begin(self, step: int, *, measured: bool = False, **loop: Any) -> None:
        """The next round to be done is step + 1, and `loop` is what it begins with. What is due before it is measured,
        unless it was already."""
        self._note(step, loop, measured=measured)
        self._stopping.interruptible = True
        self._measure(step, loop)

    def __call__(self, step: int, **loop: Any) -> None:
        """See Between. Raises StopRequested if that was asked for, and what measuring, writing and alarms raise."""
        loop = self.watch.look(step, loop) if self.watch else loop
        self._note(step, loop, measured=False)
        self._stopping.interruptible = True  # raises if the round was finished only to end there
        if self.every:
            self._stopping.agree()
        best = self._measure(step, loop)
        if self.every and (best or (self.watch and self.watch.checkpoint) or step % self.every == 0):
            self._stopping.interruptible = False
            self.write()
            self._stopping.interruptible = True
        if self.watch:
            self.watch.follow(step, loop)

    def left_out(self) -> dict[str, Any]:
        """The round that has begun was given up for good, before it learned: the arguments of `begin` for the next."""
        loop = self._noted["loop"]
        self(self.step + 1, **loop)
        return {"step": self.step, **loop}

    def ended(self) -> None:
        """All rounds are done: what comes next changes the model, and is not given up."""
        self._stopping.interruptible = False
        self._exact = False

    def write(self) -> None:
        """Write the checkpoint of where the present round began; it is the `newest` then. Of several processes the
        first one writes, and each its own rows of what is shared out. Raises RunDirError."""
        late = {name: part.state() for name, part in self.late.items()}
        with held(self.saved_weights(), here=self.engine.rank == 0):
            shared_out = self.engine.share(lambda: self._begin_writing(late))
        try:
            own = {"late": late, "weights": {"tensors": self.learned}}
            sealed = write_shards(self.checkpoints.shards(self.step), own, shared_out, self.engine)
        except BaseException:
            if self.engine.rank == 0:
                self.checkpoints.give_up(self.step)
            raise
        best = self._best if self._best is not None and self._best.step == self.step else None
        path = self.engine.share(lambda: str(self.checkpoints.end(self.step, sealed, best=best).path))
        if path is not None:  # None: this process has parted from the one that writes
            self.newest = Checkpoint(Path(path), self.step)

    def _begin_writing(self, late: Mapping[str, Any]) -> dict[str, list[str]]:
        """All but what is shared out, which is returned by its names: the ways to it."""
        tree: dict[str, Any] = {
            "about": {"marks": dict(self.marks), "numbers": dict(self.numbers), "machine": machine()},
            "round": self._noted,
            "late": late,
        }

        def save(directory: Path) -> None:
            self.save_model(directory)
            tree["weights"] = weights_state(self.learned, directory, self.prefix)

        self.listener.phase("saving")
        with undisturbed_chance():  # what is drawn in saving would be drawn behind the state that is saved
            return {name: list(way) for name, way in self.checkpoints.begin(self.step, tree, save).items()}

    @property
    def _best(self) -> Best | None:
        return None if self.evaluation is None else self.evaluation.best

    def restore(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Put everything back as it was when this checkpoint was written, but for the files. Returns the arguments of
        `begin`. Raises CheckpointError if it is of a run with other models or data."""
        state = checkpoint.state
        self._check(state["about"])
        load_weights(self.learned, state["weights"], checkpoint.path)
        for name, part in self.late.items():
            if name in state["late"]:
                part.load_state(state["late"][name])
        self.restore_early(checkpoint)
        self.newest = checkpoint
        noted = state["round"]
        return {"step": noted["step"], "measured": noted["measured"], **noted["loop"]}

    def restore_early(self, checkpoint: Checkpoint) -> None:
        """The part of `restore` that has to be done again when the model was looked at since."""
        self.forget()
        kept = checkpoint.state["round"]["early"]
        for name, part in self.early.items():
            if name in kept:
                part.load_state(kept[name])

    def rewind(self, checkpoint: Checkpoint) -> None:
        """Take the run's files back to this checkpoint, those of another directory being copied, and its history.
        Raises RunDirError."""
        self.history[:] = self.engine.share(lambda: self._rewound(checkpoint))
        if (there := len(self.history)) != checkpoint.step:
            self.listener.note(f"metrics.jsonl has lost {self.round}s: {there} of {checkpoint.step} are there")
        self.listener.note(f"goes on after {self.round} {checkpoint.step}, from {checkpoint.path}")
        checkpoint.release()

    def _rewound(self, checkpoint: Checkpoint) -> list[dict[str, float]]:
        """The history, once the files are taken back."""
        self.run_dir.rewind(checkpoint.step, checkpoint.state["round"]["files"], of=checkpoint.path.parent)
        self.run_dir.remove(FINISHED)
        self.checkpoints.forget_after(checkpoint.step)
        if self._best is not None:
            self.checkpoints.restore_best(self._best, of=checkpoint.path.parent)
        return recorded(self.run_dir)

    def finish(self) -> None:
        """Note that the run has come to its end. Raises RunDirError."""
        self.run_dir.write(FINISHED, json.dumps({"rounds": self.n_rounds}) + "\n")

    def done(self, resume: Checkpoint | None) -> bool:
        """Whether the run in this directory, which is to go on from `resume`, has come to its end already; a note says
        so if it has not even begun.

        Raises CheckpointError for one that ended earlier than this one shall, and has no checkpoint to go on from.
        """
        return self.engine.share(lambda: self._done(resume))

    def _done(self, resume: Checkpoint | None) -> bool:
        place = self.run_dir.path
        try:
            rounds = int(json.loads((place / FINISHED).read_text(encoding="utf-8"))["rounds"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            # A run of a ClearPPO that wrote neither this file nor timings, if it has a model card.
            old = (place / "README.md").exists() and not (place / TIMINGS).exists()
            rounds = -1 if old and resume is None else None
        if rounds is not None and rounds < self.n_rounds and resume is None:
            after = f" after {rounds} {self.round}s" if rounds >= 0 else ""
            raise CheckpointError(
                f"the run in {place} is finished{after} and has no checkpoint to go on from. Use another --output_dir, "
                "or --overwrite_output_dir true to make it again."
            )
        if rounds is None or rounds < self.n_rounds:
            if resume is None:
                self.listener.note("there is no checkpoint to go on from: the run starts afresh")
            return False
        if not any(place.glob("model*.safetensors")):
            if resume is None:
                raise CheckpointError(
                    f"the run in {place} is finished, but its model is gone, and there is no checkpoint to make it "
                    "from. Use another --output_dir, or --overwrite_output_dir true to make it again."
                )
            self.listener.note("the run is finished, but its model is gone: it is made again from the last checkpoint")
            return False
        return True

    def left_as_it_is(self, checkpoint: Checkpoint | None) -> list[dict[str, float]]:
        """Say that there is nothing to do; the model is that of the last checkpoint. Returns the run's history."""
        self.listener.note(f"nothing to do: the run in {self.run_dir.path} is finished")
        if checkpoint is not None:
            load_weights(self.learned, checkpoint.state["weights"], checkpoint.path)
        self.listener.finished()
        return self.engine.share(lambda: recorded(self.run_dir))

    @contextlib.contextmanager
    def kept(self, save: Callable[[str, str], None]) -> Iterator[None]:
        """If the block ends early, what it has done is kept before the error goes on, which nothing of that hides.

        A round that has not learned yet is kept from its beginning, in a checkpoint. Otherwise, or without checkpoints,
        `save(name, ended)` writes the model as it is then to output_dir/interrupted, if the error is one that ClearPPO
        understands, or Ctrl-C. A second signal ends all at once.
        """
        with self._stopping if self.every else contextlib.nullcontext():
            try:
                yield
            except StopRequested as stop:
                if not stop.at_once:
                    self._keep(stop, save)
                stop.args = (f"{'interrupted at once' if stop.at_once else 'interrupted'}; {self._way_on()}",)
                raise
            except (Exception, KeyboardInterrupt) as error:
                self._keep(error, save)
                if self.newest is not None:
                    self.listener.note(self._way_on())
                raise

    def _note(self, step: int, loop: Mapping[str, Any], *, measured: bool) -> None:
        """What a checkpoint of this moment holds beside what only learning changes."""
        self.forget()
        self.step, self._exact = step, True
        self._noted = {
            "step": step,
            "measured": measured,
            "loop": dict(loop),
            "early": {name: part.state() for name, part in self.early.items()},
            "files": self.run_dir.sizes(),
        }

    def _measure(self, step: int, loop: Mapping[str, Any]) -> Best | None:
        """Measure if that is due and was not done. Returns the step's mark if it is the best so far."""
        if self.evaluation is None or self._noted["measured"] or not self.evaluation.due(step):
            return None
        best = self.evaluation(step)
        self._note(step, loop, measured=True)
        return self.evaluation.best if best else None

    def _keep(self, error: BaseException, save: Callable[[str, str], None]) -> None:
        if self.engine.apart and any(map(is_shared_out, self.learned.values())):
            self.listener.note("nothing more is saved: the weights are shared out over processes that have parted")
            return
        try:
            if self.every and self._exact:
                if self.step and (self.newest is None or self.newest.step != self.step):
                    self.write()
            elif self.history and isinstance(error, ClearPPOError | KeyboardInterrupt):
                self._interrupt(error, save)
        except ClearPPOError as unsaved:
            self.listener.note(f"not saved: {unsaved}")

    def _interrupt(self, error: BaseException, save: Callable[[str, str], None]) -> None:
        place, done = self.run_dir.path / "interrupted", len(self.history)
        self.listener.phase("saving")
        with undisturbed() if not self.every else contextlib.nullcontext():
            save(place.name, f"Ended early after {done} of {self.n_rounds} {self.round}s: {type(error).__name__}.")
        self.listener.note(f"the {self.noun} after {done} {self.round}s is in {place}")

    def _way_on(self) -> str:
        if self.newest is None:
            return "there is no checkpoint yet" if self.every else "without checkpoints it cannot be gone on with"
        new = "is written" if self.newest.step == self.step and self._exact else "is the newest"
        return f"{self.newest.path.name} {new}: go on with --resume_from_checkpoint auto"

    def _check(self, about: Mapping[str, Any]) -> None:
        """Raises CheckpointError if a checkpoint is of a run with other models or data; notes what may move a bit."""
        before = about["marks"]
        other = [name for name in {**before, **self.marks} if before.get(name) != self.marks.get(name)]
        if other and not self.allow_changed:
            raise CheckpointError(
                f"the run that is to go on had other {' and other '.join(other)}: what is read there has changed. Its "
                "result would be something else. Read the same as before, start afresh in another --output_dir, or go "
                "on all the same with --allow_changed_options true."
            )
        if other:
            self.listener.note(f"goes on with other {' and other '.join(other)}, as allowed")
        was, now = (
            {"processes": 1, "sharding": "none", **about["numbers"], **about["machine"]},
            {**self.numbers, **machine()},
        )
        moved = [f"{name} was {was.get(name)}, is {value}" for name, value in now.items() if was.get(name) != value]
        if moved:
            self.listener.note(f"the last bits may differ from those of a run that never stopped: {'; '.join(moved)}")
