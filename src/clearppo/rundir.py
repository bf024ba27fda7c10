"""What a run leaves on disk. Plain files that outlive this library:

output_dir/
  config.yaml         every option of the run, resolved; `clearppo ppo --config` takes it again
  metrics.jsonl       one line an iteration (PPO) or a step (sft, reward): what options, data and seed determine, so
                      that equal runs have equal files
  timings.jsonl       the same of what depends on the machine: seconds, tokens a second, memory
  samples.jsonl       answers, now and then
  alarms.jsonl        of PPO: what went wrong by the rules of docs/alarms.md, from when to when
  README.md           the model card
  config.json, model.safetensors, tokenizer.json, ...   the final model (AutoModelForCausalLM; a reward model is
                      AutoModelForSequenceClassification, one label)
  value_model/        the critic (AutoModelForSequenceClassification, one label)
  ema_model/          with --ema_decay: the running average of the policy's weights (AutoModelForCausalLM)
  adapter/            with LoRA: the adapter alone, in PEFT's format
  judgement.json      of a reward model: the template of what it reads
  reward_report.json  of a reward model: what it is worth on comparisons that it has not seen
  profile/            with --profile: traces of chosen iterations, iteration-2.pt.trace.json
  interrupted/        the policy as it was when the run ended early
  faults/             batches that could not be learned from, in step-N/, by train/faults.py
  watchdog-1.txt      where each thread stood when nothing went on for too long, by train/watchdog.py
  tensorboard/        with --report_to tensorboard: its event files, unless --tracking_dir names another place
  report.html         what `clearppo report` has written; figures/ with its --png
  evaluation/         with --eval_steps: every measured answer, in step-N.jsonl (step-0: the start model's)
  record/             of PPO: every token of every answer, in step-000012.parquet, by record/store.py
  checkpoint-12/      what the run needs to go on after 12 iterations (PPO) or steps, by train/checkpoint.py: the
                      model, training_state/ (in it shards/ with --sharding full), config.yaml,
                      manifest.json
  best.json           which checkpoint was the best so far
  plan.json           what the run was planned to take, memory and time, and what it took (docs/plan.md)
  started.json        how many iterations or steps the run is to have, and its objective in one line
  finished.json       how many iterations or steps were done when the run came to its end
"""

import contextlib
import errno
import itertools
import json
import math
import os
import shutil
import tempfile
import weakref
from bisect import bisect_right
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.disk import absent_directories, append_whole, make_writable, part_of, remove_empty, replace_whole
from clearppo.errors import RunDirError
from clearppo.lock import lock, unlock

OWN_FILES = (
    "config.yaml",
    "README.md",
    "evaluation.json",
    "judgement.json",
    "reward_report.json",
    "best.json",
    "started.json",
    "plan.json",
    "finished.json",
    "report.html",
)
ALARMS = "alarms.jsonl"
"""The file of alarms: one line when one begins, one when it is over."""
ROWS = ("metrics.jsonl", "timings.jsonl", "samples.jsonl", ALARMS)
"""The files of which each line belongs to a round, which it names as "step"."""
EVALUATION = "evaluation"
"""The directory of the measured answers."""
RECORD = "record"
"""The directory of what every token earned."""
FAULTS = "faults"
"""The directory of batches that could not be learned from."""
EVENTS = "tensorboard"
"""The directory of TensorBoard's event files."""
WATCHDOG = "watchdog-"
"""What the name of a file begins with that says where each thread stood; a number follows."""
OWN_DIRECTORIES = (
    "figures",
    "value_model",
    "ema_model",
    "adapter",
    "profile",
    "interrupted",
    EVALUATION,
    RECORD,
    FAULTS,
    EVENTS,
)
SAVING = ".saving-"
"""What the name of a directory in which results are being written begins with; a killed run leaves it behind."""
GONE = f"{SAVING}gone-"
"""The same of a directory that is being removed."""
CHECKPOINT = "checkpoint-"
"""What the name of a checkpoint begins with; the number of rounds that were done follows."""
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "model.safetensors.index.json",
)


class RunDir:
    """One run's directory. Every write either happens whole or raises RunDirError in one sentence."""

    def __init__(self, path: Path, *, made: Sequence[Path] = (), stale: bool = False) -> None:
        self.path = path
        self._made = made
        self._stale = stale
        self._lock: weakref.finalize[[Path], RunDir] | None = None

    @classmethod
    def create(cls, output_dir: str | Path, *, overwrite: bool = False, resume: bool = False) -> "RunDir":
        """Make the directory, or take an empty or unrelated one. Raises RunDirError if it holds a run or a model.

        With `overwrite` or `resume` it may hold a run. What comes next is either `begin`, which deletes the files of
        that run and nothing else, or `rewind`, which keeps what it did up to a round. Until `release`, or until nobody
        holds the RunDir any more, it is an error if another process creates one of the same directory.
        """
        path = Path(output_dir).expanduser()
        if path.exists() and not path.is_dir():
            raise RunDirError(f"output_dir = {path} is a file. Give a directory.")
        try:
            run = holds_run(path)
            if run and not overwrite and not resume:
                raise RunDirError(
                    f"output_dir = {path} already holds a run ({run}). Use another --output_dir, "
                    "--resume_from_checkpoint auto to go on with that run, or --overwrite_output_dir true to delete "
                    "its files."
                )
            if not run and ((path / "config.json").exists() or list(path.glob("*.safetensors"))):
                raise RunDirError(
                    f"output_dir = {path} holds a model that no ClearPPO run wrote there. Use another --output_dir."
                )
            made = absent_directories(path)
            with disk_errors(path):
                make_writable(path)
            locked = lock(path)
        except BlockingIOError:
            raise RunDirError(
                f"another process is writing its run to output_dir = {path}. Wait until it has ended, or use another "
                "--output_dir."
            ) from None
        except OSError as error:
            raise RunDirError(
                f"output_dir = {path} cannot be used ({error.strerror}). Use another --output_dir."
            ) from error
        run_dir = cls(path, made=made, stale=bool(run))
        run_dir._lock = weakref.finalize(run_dir, unlock, locked)
        return run_dir

    def release(self) -> None:
        """The run has ended: other processes may use the directory."""
        if self._lock is not None:
            self._lock()

    def begin(self) -> None:
        """Delete the earlier run that is to be overwritten: only now, when everything is loaded and checked."""
        if self._stale:
            _delete_run(self.path)
        elif (self.path / "metrics.jsonl").exists():  # of a run that never finished a round, and counts as none
            _delete_rows(self.path)
        self.tidy()

    def rewind(self, step: int, sizes: Mapping[str, int] | None = None, *, of: Path | None = None) -> None:
        """Keep what the run did up to this round and no row of a later one: the next round that is done is step + 1.

        `sizes` are what `sizes()` gave then: no more is kept of any file. Rows of a run in another directory, `of`, are
        copied first. A last line that was cut short by a kill goes too. Raises RunDirError for any other line that is
        no row of a run, and if the disk refuses; each file is then as it was, or done.
        """
        for name in ROWS:
            file = self.path / name
            with disk_errors(file, any_cause=True):
                if of is not None and of.resolve() != self.path.resolve() and (of / name).exists():
                    replace_whole(file, (of / name).read_bytes())
                if not file.exists():
                    continue
                lines = file.read_bytes().splitlines(keepends=True)
                kept = [line for i, line in enumerate(lines, 1) if _row_step(file, i, line, len(lines)) <= step]
                if sizes is not None:
                    kept = kept[: bisect_right(list(itertools.accumulate(map(len, kept))), sizes.get(name, 0))]
                if not kept:
                    file.unlink()
                elif len(kept) < len(lines):
                    replace_whole(file, b"".join(kept))
        for directory in (EVALUATION, RECORD):
            with disk_errors(self.path / directory, any_cause=True):
                if of is not None and of.resolve() != self.path.resolve():
                    for _, file in _of_rounds(of / directory):
                        (self.path / directory).mkdir(exist_ok=True)
                        replace_whole(self.path / directory / file.name, file.read_bytes())
                for number, file in _of_rounds(self.path / directory):
                    if number > step:
                        file.unlink()

    def sizes(self) -> dict[str, int]:
        """How many bytes each file of rows has now, by name."""
        return {name: (self.path / name).stat().st_size for name in ROWS if (self.path / name).exists()}

    def sync(self) -> None:
        """Wait until the rows that were written are on the disk. Raises RunDirError."""
        for name in ROWS:
            file = self.path / name
            if file.exists():
                with disk_errors(file, any_cause=True), file.open("rb") as stream:
                    os.fsync(stream.fileno())

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSON-lines file of this run; none if there is no such file."""
        file = self.path / name
        if not file.exists():
            return []
        with disk_errors(file, any_cause=True):
            lines = file.read_bytes().splitlines(keepends=True)
        found = [(i, line) for i, line in enumerate(lines, 1) if _row_step(file, i, line, len(lines)) < math.inf]
        return [json.loads(line) for _, line in found]

    def tidy(self) -> None:
        """Remove what a killed process had not finished writing or removing."""
        with disk_errors(self.path, any_cause=True):
            for path in self.path.glob(f"{SAVING}*"):
                shutil.rmtree(path, ignore_errors=True)
            for name in (*OWN_FILES, *ROWS):
                part_of(self.path / name).unlink(missing_ok=True)
            for part in [part for name in (EVALUATION, RECORD) for part in (self.path / name).glob(".*.part")]:
                part.unlink()

    def discard(self) -> None:
        """Take away the directories that were made here and are still empty: a start that failed leaves nothing."""
        self.release()
        remove_empty(self._made)

    def require_space(self, needed: int, mend: str = "") -> None:
        """Raises RunDirError now rather than after hours if `needed` bytes will not fit; `mend` is what would help."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunDirError(
                f"no space for the result: {self.path} has {free / 1e9:.2f} GB free and the models and the "
                f"records need about {needed / 1e9:.2f} GB{mend}. Make room, or use an --output_dir on another disk."
            )

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a JSON-lines file, each on a line of its own."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file = self.path / name
        with disk_errors(file):
            append_whole(file, text)

    def write(self, name: str, text: str) -> None:
        """Write a text file: beside it first, then renamed. The directory that `name` may begin with is made."""
        with disk_errors(self.path / name):
            (self.path / name).parent.mkdir(exist_ok=True)
            replace_whole(self.path / name, text.encode())

    def remove(self, name: str) -> None:
        """Take a text file away, if it is there. Raises RunDirError."""
        with disk_errors(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def whole(self, name: str = ".") -> Generator[Path]:
        """A directory to write files into, which move to `name` below the run when all are written, or not at all."""
        target = self.path / name
        with disk_errors(target):
            beside = Path(tempfile.mkdtemp(dir=self.path, prefix=SAVING))
            try:
                yield beside
                target.mkdir(parents=True, exist_ok=True)
                for entry in sorted(beside.iterdir()):
                    place = target / entry.name
                    if place.is_dir():
                        shutil.rmtree(place)
                    entry.replace(place)
            finally:
                shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def disk_errors(file: Path, option: str = "output_dir", *, any_cause: bool = False) -> Generator[None]:
    """Turn what the disk says while `file` is written into a RunDirError of one sentence; `option` is the mend.

    Other OSErrors than no space, no permission and a failing disk pass through unless `any_cause`, and so does whatever
    is none.
    """
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO, errno.ESTALE)
    try:
        yield
    except Exception as error:
        cause = error.errno if isinstance(error, OSError) else None
        # safetensors writes from Rust and raises its own type
        if cause in full or any(f"(os error {code})" in str(error) for code in full):
            raise RunDirError(f"no space left to write {file}. Make room, or use an --{option} elsewhere.") from error
        if isinstance(error, OSError) and (any_cause or cause in refused):
            raise RunDirError(
                f"cannot write {file} ({error.strerror}). Use an --{option} that you may write."
            ) from error
        raise


_STEP_0 = b'{"step": 0,'
"""How the row of a measurement before the first iteration begins."""


def holds_run(path: Path) -> str:
    """What of a run lies in `path`, in words, or nothing. A run that never finished an iteration does not count, unless
    it has a checkpoint."""
    metrics = path / "metrics.jsonl"
    count = 0
    if metrics.is_file():
        with metrics.open("rb") as stream:
            count = sum(1 for line in stream if not line.startswith(_STEP_0))
    if count:
        return f"metrics.jsonl with {count} line{'s' * (count > 1)}"
    checkpoints = _checkpoints(path)
    return checkpoints[0].name if checkpoints else ""


def _checkpoints(path: Path) -> list[Path]:
    found = path.glob(f"{CHECKPOINT}*") if path.is_dir() else ()
    return sorted(p for p in found if p.name.removeprefix(CHECKPOINT).isdecimal() and p.is_dir())


def _of_rounds(directory: Path) -> list[tuple[int, Path]]:
    """The files of a directory that has one for each round, or for some; each with its round."""
    files = [(file.stem.removeprefix("step-"), file) for file in directory.glob("step-*.*")]
    return [(int(number), file) for number, file in files if number.isdecimal()]


def _row_step(file: Path, number: int, line: bytes, n_lines: int) -> float:
    """The round that a line belongs to; of one that a kill has cut short, later than any."""
    try:
        row = json.loads(line)
        if line.endswith(b"\n") and isinstance(row["step"], int):
            return row["step"]
    except (ValueError, TypeError, KeyError):
        pass
    if number == n_lines:
        return math.inf
    raise RunDirError(
        f"{file}, line {number} is no row of a run: {line[:60].decode(errors='replace').strip()}. Mend or delete the "
        "line to go on with this run."
    )


def _delete_rows(path: Path) -> None:
    """What a run has left that ended in its first round: the directory may be somebody else's beside that."""
    for directory in (EVALUATION, RECORD, EVENTS, FAULTS):
        shutil.rmtree(path / directory, ignore_errors=True)
    for name in ROWS:
        (path / name).unlink(missing_ok=True)


def _delete_run(path: Path) -> None:
    for directory in [path / name for name in OWN_DIRECTORIES] + _checkpoints(path):
        shutil.rmtree(directory, ignore_errors=True)
    several = [file for pattern in ("model*.safetensors", f"{WATCHDOG}*.txt") for file in path.glob(pattern)]
    for file in [path / name for name in OWN_FILES + ROWS + MODEL_FILES] + several:
        file.unlink(missing_ok=True)
