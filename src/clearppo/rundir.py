"""What a run leaves on disk. Plain files that outlive this library:

output_dir/
  config.yaml         every option of the run, resolved; `clearppo ppo --config` takes it again
  metrics.jsonl       one line an iteration (PPO) or a step (sft, reward)
  samples.jsonl       answers, now and then
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
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from clearppo.errors import RunDirError

OWN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "samples.jsonl",
    "README.md",
    "evaluation.json",
    "judgement.json",
    "reward_report.json",
)
OWN_DIRECTORIES = ("value_model", "ema_model", "adapter", "profile", "interrupted")
SAVING = ".saving-"
"""What the name of a directory in which results are being written begins with; a killed run leaves it behind."""
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

    @classmethod
    def create(cls, output_dir: str | Path, *, overwrite: bool = False) -> "RunDir":
        """Make the directory, or take an empty or unrelated one. Raises RunDirError if it holds a run or a model.

        With `overwrite`, `begin` will delete the files of an earlier ClearPPO run, and nothing else.
        """
        path = Path(output_dir).expanduser()
        if path.exists() and not path.is_dir():
            raise RunDirError(f"output_dir = {path} is a file. Give a directory.")
        try:
            run = _holds_run(path)
            if run and not overwrite:
                raise RunDirError(
                    f"output_dir = {path} already holds a run ({run}). Use another --output_dir, or "
                    "--overwrite_output_dir true to delete that run's files."
                )
            if not run and ((path / "config.json").exists() or list(path.glob("*.safetensors"))):
                raise RunDirError(
                    f"output_dir = {path} holds a model that no ClearPPO run wrote there. Use another --output_dir."
                )
            made = absent_directories(path)
            with disk_errors(path):
                make_writable(path)
        except OSError as error:
            raise RunDirError(
                f"output_dir = {path} cannot be used ({error.strerror}). Use another --output_dir."
            ) from error
        return cls(path, made=made, stale=bool(run))

    def begin(self) -> None:
        """Delete the earlier run that is to be overwritten: only now, when everything is loaded and checked."""
        if self._stale:
            _delete_run(self.path)

    def discard(self) -> None:
        """Take away the directories that were made here and are still empty: a start that failed leaves nothing."""
        remove_empty(self._made)

    def require_space(self, needed: int) -> None:
        """Raises RunDirError now rather than after hours if `needed` bytes will not fit."""
        free = shutil.disk_usage(self.path).free
        if free < needed:
            raise RunDirError(
                f"no space for the result: {self.path} has {free / 1e9:.2f} GB free and the models and the "
                f"records need about {needed / 1e9:.2f} GB. Make room, or use an --output_dir on another disk."
            )

    def append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows to a JSON-lines file, each on a line of its own."""
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        file = self.path / name
        with disk_errors(file):
            append_whole(file, text)

    def write(self, name: str, text: str) -> None:
        """Write a text file: beside it first, then renamed."""
        file = self.path / name
        with disk_errors(file):
            beside = file.with_name(f".{file.name}.part")
            beside.write_text(text, encoding="utf-8")
            beside.replace(file)

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


def absent_directories(path: Path) -> list[Path]:
    """The directories that would have to be made for `path` to be one, itself first."""
    return [directory for directory in (path, *path.parents) if not directory.exists()]


def remove_empty(directories: Iterable[Path]) -> None:
    """Remove these directories, as far as they are there and empty."""
    for directory in directories:
        with contextlib.suppress(OSError):
            directory.rmdir()


def make_writable(directory: Path) -> None:
    """Make the directory if it is not there, and write something there. Raises OSError if either cannot be done."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory) as probe:
        probe.write(b"x")


def append_whole(file: Path, text: str) -> None:
    """Append `text` to a file; if that fails (OSError, or Ctrl-C in the middle) no part of it stays behind."""
    before = file.stat().st_size if file.exists() else 0
    try:
        with file.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except BaseException:
        with contextlib.suppress(OSError):
            os.truncate(file, before)
        raise


@contextlib.contextmanager
def disk_errors(file: Path, option: str = "output_dir", *, any_cause: bool = False) -> Generator[None]:
    """Turn what the disk says while `file` is written into a RunDirError of one sentence; `option` is the mend.

    Other OSErrors than no space and no permission pass through unless `any_cause`, and so does whatever is none.
    """
    forbidden = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)
    try:
        yield
    except Exception as error:
        cause = error.errno if isinstance(error, OSError) else None
        # safetensors writes from Rust and raises its own type
        if cause in (errno.ENOSPC, errno.EDQUOT) or f"os error {errno.ENOSPC}" in str(error):
            raise RunDirError(f"no space left to write {file}. Make room, or use an --{option} elsewhere.") from error
        if isinstance(error, OSError) and (any_cause or cause in forbidden):
            raise RunDirError(
                f"cannot write {file} ({error.strerror}). Use an --{option} that you may write."
            ) from error
        raise


def _holds_run(path: Path) -> str:
    """What of a run lies in `path`, in words, or nothing. A run that never finished an iteration does not count."""
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        return ""
    with metrics.open(encoding="utf-8") as stream:
        count = sum(1 for _ in stream)
    return f"metrics.jsonl with {count} line{'s' * (count > 1)}" if count else ""


def _delete_run(path: Path) -> None:
    for directory in [path / name for name in OWN_DIRECTORIES] + list(path.glob(f"{SAVING}*")):
        shutil.rmtree(directory, ignore_errors=True)
    for file in [path / name for name in OWN_FILES + MODEL_FILES] + list(path.glob("model*.safetensors")):
        file.unlink(missing_ok=True)
