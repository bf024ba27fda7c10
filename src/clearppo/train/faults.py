"""What a run does when numbers go wrong: the batch is saved, the step is left out, and after some in a row it ends."""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from torch import Tensor

from clearppo.batch import Experience, Feedback, Prompts, Rollout, Sequences
from clearppo.data.comparisons import ComparisonBatch
from clearppo.disk import free_name
from clearppo.errors import ClearPPOError, NumbersError, ScoreError
from clearppo.learning.examine import of_sampling
from clearppo.learning.faults import MEND, Batch, Fault, Guard, Place, first_cell
from clearppo.rundir import FAULTS, RunDir
from clearppo.train.listener import Listener
from clearppo.train.state_file import read_state, write_state

MOST_RETURNS = 3
"""So often a run goes back to a checkpoint with --on_bad_steps rollback."""
MOST_SAVED = 20
"""So many batches of a run are saved; what goes wrong more often than that says nothing new."""
KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (Experience, Rollout, Sequences, ComparisonBatch)}
_TEXT = ("texts", "columns")
"""What users hand in, which may be anything that JSON can hold."""
P = ParamSpec("P")


class UnlearnableError(Exception):
    """So many answers, those of this iteration, cannot be learned from, and the run is to go on with the next."""

    def __init__(self, n_answers: int) -> None:
        super().__init__(f"{n_answers} answers cannot be learned from")
        self.n_answers = n_answers


class Faults:
    """The guard of a run. `max_bad_steps` faults in a row end it with NumbersError (or the error that told of the
    last); fewer are a note. `step` says which round it is, from 1. `returns` counts how often the run may still go back
    to a checkpoint when that happens.

    The batch of each is saved in output_dir/faults. That it could not be saved ends no run.
    """

    def __init__(
        self,
        run_dir: RunDir | None,
        listener: Listener,
        *,
        max_bad_steps: int,
        step: Callable[[], int],
        returns: int = 0,
    ) -> None:
        self.run_dir = run_dir
        self.listener = listener
        self.max_bad_steps = max_bad_steps
        self.step = step
        self.returns = returns
        self.in_row = 0

    def good(self) -> None:
        """A step was taken."""
        self.in_row = 0

    def bad(self, fault: Fault) -> None:
        """A step was not taken. Raises when it is one too many: of scores, the first of the run, for then their source
        is wrong and not an answer."""
        if fault.cause is not None and self.step() == 1:
            raise fault.cause
        self.in_row += 1
        saved = self._saved(fault)
        if self.in_row >= self.max_bad_steps:
            raise self._last(fault, saved)
        left_out = "These answers are left out" if isinstance(fault.batch, Rollout) else "This step was not taken"
        self.listener.note(
            f"{fault.sentence}. {left_out} ({self.in_row} in a row; {self.max_bad_steps} end the run). {saved}"
        )

    def state(self) -> dict[str, Any]:
        """How many in a row there were."""
        return {"in_row": self.in_row}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from a `state`."""
        self.in_row = int(state["in_row"])

    def _last(self, fault: Fault, saved: str) -> ClearPPOError:
        several = f" ({self.in_row} in a row)" if self.in_row > 1 else ""
        if fault.cause is not None:
            return type(fault.cause)(f"{fault.sentence}{several}. {saved}")
        return NumbersError(f"{fault.sentence}{several}. The weights are those before it. {saved} {MEND}")

    def _saved(self, fault: Fault) -> str:
        """Save the batch; where it is, in a sentence."""
        if self.run_dir is None:
            return ""
        try:
            place = free_name(self.run_dir.path / FAULTS / f"step-{self.step()}")
            if len(list(place.parent.glob("step-*"))) >= MOST_SAVED:
                return f"Its batch was not saved: {place.parent} has {MOST_SAVED} already."
            with self.run_dir.whole(f"{FAULTS}/{place.name}") as directory:
                save_fault(fault, directory)
        except (ClearPPOError, OSError) as error:
            return f"Its batch was not saved: {error}"
        return f"Its batch is in {place}."


def checked(
    judge: Callable[Concatenate[Rollout, P], Feedback], guard: Guard
) -> Callable[Concatenate[Rollout, P], Feedback]:
    """`judge`, told of what is not finite before and after: log-probs, scores, rewards. If the guard lets the run go
    on, UnlearnableError is raised: nothing has changed since the answers were sampled."""

    @functools.wraps(judge)
    def judged(rollout: Rollout, *args: P.args, **kwargs: P.kwargs) -> Feedback:
        place, cause, feedback = of_sampling(rollout), None, None
        if place is None:
            try:
                feedback = judge(rollout, *args, **kwargs)
            except ScoreError as error:
                place, cause = Place(phase="feedback", tensor="scores", words=str(error)), error
            else:
                place = _of_feedback(feedback, rollout)
        if feedback is not None and place is None:
            return feedback
        assert place is not None
        fault = Fault(what=f"what came from {place.phase}", place=place, batch=rollout, cause=cause)
        guard.bad(fault)
        raise UnlearnableError(len(rollout))

    return judged


def _of_feedback(feedback: Feedback, rollout: Rollout) -> Place | None:
    for name in ("ref_log_probs", "kl", "rewards"):
        if place := first_cell("feedback", name, getattr(feedback, name), mask=rollout.mask):
            return place
    return None


def save_fault(fault: Fault, directory: Path) -> None:
    """The batch, the numbers of its loss and where it went wrong, as files that anybody can open: state.json and
    tensors.safetensors. Raises OSError."""
    tree = {
        "sentence": fault.sentence,
        "what": fault.what,
        "when": fault.when,
        "place": asdict(fault.place),
        "settings": dict(fault.settings),
        "kind": type(fault.batch).__name__,
        "batch": _tree(fault.batch),
    }
    write_state(directory, tree)


def read_fault(directory: str | Path) -> Fault:
    """A fault that was saved, on the CPU. Raises OSError, ValueError or KeyError if it is none."""
    tree = read_state(Path(directory))
    batch: Batch = _batch(KINDS[tree["kind"]], tree["batch"])
    place = Place(**tree["place"])
    return Fault(what=tree["what"], when=tree["when"], place=place, batch=batch, settings=tree["settings"])


def _tree(batch: Any) -> dict[str, Any]:
    """The fields of a batch, those of a batch within it too."""
    tree: dict[str, Any] = {}
    for field in fields(batch):
        value = getattr(batch, field.name)
        if is_dataclass(value):
            tree[field.name] = _tree(value)
        elif field.name in _TEXT:
            tree[field.name] = json.dumps(value, ensure_ascii=False, default=str)
        else:
            tree[field.name] = list(value) if isinstance(value, tuple) else value
    return tree


def _batch(kind: type[Any], tree: Mapping[str, Any]) -> Any:
    within = {"prompts": Prompts, "rollout": Rollout}
    values: dict[str, Any] = {}
    for name, value in tree.items():
        if name in within:
            values[name] = _batch(within[name], value)
        elif name == "texts":
            values[name] = tuple(json.loads(value))
        elif name == "columns":
            values[name] = {column: tuple(cells) for column, cells in json.loads(value).items()}
        else:
            values[name] = tuple(value) if isinstance(value, list) and not isinstance(value, Tensor) else value
    return kind(**values)
