"""What a run's directory has kept for a replay: rows, the record, checkpoints. It is only read, and never locked."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from clearppo.errors import CheckpointError, RecordError, RunDirError
from clearppo.record import Iteration, iteration_path
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import CONFIG, Checkpoint, checkpoints_in
from clearppo.train.keeping import FINISHED, STARTED
from clearppo.train.manifest import damage
from clearppo.train.records import METRICS

START = "start"
"""In the place of a checkpoint: the run's start model."""
_COMMAND = re.compile(r"clearppo (\w+) --config")
_JUDGED = "objective/scores"
"""A metric of every iteration that was not left out."""


class KeptRun:
    """A run of PPO. Raises RunDirError, here and where its files are read, for a directory that holds none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._require_ppo()
        self.rows: dict[int, dict[str, float]] = {}
        for row in RunDir(path).rows(METRICS):
            self.rows.setdefault(row.pop("step"), {}).update(row)
        self.rows.pop(0, None)
        if not self.rows:
            raise RunDirError(f"{path} has no iteration yet: there is nothing to replay.")

    def require(self, step: int) -> None:
        """Raises RecordError unless this is an iteration of the run, and it was learned from."""
        if step not in self.rows:
            raise RecordError(
                f"--step {step}: {self.path} has iterations {min(self.rows)} to {max(self.rows)}. Give one of them."
            )
        if self.left_out(step):
            raise RecordError(
                f"--step {step}: nothing was learned in this iteration, for it was left out whole (docs/faults.md). "
                "Give another one."
            )

    def left_out(self, step: int) -> bool:
        """Whether an iteration was given up before it learned."""
        return step in self.rows and _JUDGED not in self.rows[step]

    def origin(self, step: int, asked: str | None) -> Checkpoint | None:
        """Where to begin: the newest whole checkpoint before this iteration, or the one that is asked for; None: the
        run's start. Raises CheckpointError for one that is damaged or too late."""
        if asked == START:
            return None
        if asked is not None:
            place = Path(asked).expanduser()
            within = self.path / asked  # checkpoint-50, as the run calls it
            return _opened(within if not place.exists() and within.is_dir() else place, step)
        earlier = sorted((n for n in checkpoints_in(self.path) if n < step), reverse=True)
        whole = (n for n in earlier if damage(checkpoints_in(self.path).get(n, self.path), n) is None)
        newest = next(whole, None)
        return None if newest is None else Checkpoint(checkpoints_in(self.path)[newest], newest)

    def recorded(self, step: int) -> Path:
        """The file of the record that an iteration has."""
        return iteration_path(self.path, step)

    def require_recorded(self, origin: Checkpoint | None, step: int) -> list[int]:
        """The iterations that have to be learned, in their order, this one last. Raises RecordError, with the way out,
        if the record has not all of their answers."""
        done = 0 if origin is None else origin.step
        wanted = [n for n in range(done + 1, step + 1) if not self.left_out(n)]
        missing = [n for n in wanted if not self._whole(n)]
        if missing:
            raise RecordError(
                f"{_iterations(missing)} of {self.path} {'is' if len(missing) == 1 else 'are'} not in its record with "
                f"all answers, and iteration {step} cannot be learned again without. Make the same iterations again "
                f"with a whole record, and replay there: {self._again(origin)}"
            )
        return wanted

    def configs(self, step: int) -> Iterator[Path]:
        """Where the options of an iteration may stand: what was written first after it, then all else. A run that went
        on with other options has several."""
        found = {n: path / CONFIG for n, path in sorted(checkpoints_in(self.path).items())}
        later = [path for n, path in found.items() if n >= step]
        yield from (path for path in [*later, self.path / CONFIG, *found.values()] if path.is_file())

    def numbers(self, origin: Checkpoint | None) -> Mapping[str, Any]:
        """What the last bits depend on beside the options, as far as it is known: `threads`, `torch`, `device` and so
        on, of the run that wrote the checkpoint, or of the last that wrote here."""
        if origin is not None:
            about = origin.state["about"]
        else:
            about = _json(self.path / STARTED)
        found = [about.get(name) for name in ("numbers", "machine")]
        return {name: value for part in found if isinstance(part, dict) for name, value in part.items()}

    @property
    def last(self) -> int | None:
        """The iteration whose weights the final model has; None: the run has not come to its end."""
        rounds = _json(self.path / FINISHED).get("rounds")
        return rounds if rounds == max(self.rows) else None

    def _whole(self, step: int) -> bool:
        path = self.recorded(step)
        if not path.exists():
            return False
        iteration = Iteration(path)
        return iteration.n_rows == iteration.meta["n_answers"]

    def _again(self, origin: Checkpoint | None) -> str:
        other = self.path.with_name(f"{self.path.name}-again")
        words = ["clearppo", "ppo", "--config", str(self.path / CONFIG), "--output_dir", str(other)]
        if origin is not None:
            words += ["--resume_from_checkpoint", str(origin.path)]
        return shlex.join([*words, "--record_steps", "1", "--record_answers", "none"])

    def _require_ppo(self) -> None:
        if not self.path.is_dir():
            raise RunDirError(f"{self.path} is no directory. Give the output_dir of a run of clearppo ppo.")
        config = self.path / CONFIG
        if not config.is_file():
            inside = sorted(entry.parent.name for entry in self.path.glob(f"*/{CONFIG}") if _kind(entry) == "ppo")
            mend = f"Give {self.path / inside[0]}." if inside else "Give the output_dir of a run of clearppo ppo."
            raise RunDirError(f"{self.path} holds no run: it has no {CONFIG}. {mend}")
        if (kind := _kind(config)) not in (None, "ppo"):
            raise RunDirError(
                f"{self.path} is a run of clearppo {kind}, and what can be replayed are iterations of clearppo ppo."
            )


def _opened(path: Path, step: int) -> Checkpoint:
    wrong = damage(path) if path.is_dir() else "it is no directory"
    if wrong is not None:
        raise CheckpointError(
            f"--checkpoint {path} cannot be used: {wrong}. Give another one, {START} for the run's start, or leave it "
            "out."
        )
    found = Checkpoint(path, -1)
    done = int(found.state["round"]["step"])
    if done >= step:
        raise CheckpointError(
            f"--checkpoint {path} has learned in {done} iterations, and iteration {step} begins after {step - 1}. Give "
            "an earlier one, or leave it out."
        )
    return Checkpoint(path, done)


def _kind(config: Path) -> str | None:
    """Of which command a resolved configuration is; None: it does not say."""
    try:
        with config.open(encoding="utf-8", errors="replace") as stream:
            found = _COMMAND.search(stream.read(400))
    except OSError as error:
        raise RunDirError(f"{config} cannot be read: {error.strerror}.") from None
    return found[1] if found else None


def _json(path: Path) -> dict[str, Any]:
    """A small file of the run, or nothing where it is not there or no JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _iterations(steps: list[int]) -> str:
    """Numbers of iterations in words: 3, 4 to 7 and 9."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    words = [str(a) if a == b else f"{a} to {b}" for a, b in spans[:4]]
    more = f" and {len(spans) - 4} more stretches" if len(spans) > 4 else ""
    return f"{'iteration' if len(steps) == 1 else 'iterations'} {', '.join(words)}{more}"
