"""Where a training run's results go: a directory that is empty, or one that holds the run that goes on."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clearppo.config import PPOConfig, RewardModelConfig, SFTConfig
from clearppo.config.changes import check_unchanged
from clearppo.engines.base import Engine
from clearppo.errors import ConfigError
from clearppo.rundir import RunDir
from clearppo.train.checkpoint import CONFIG, Checkpoint, Checkpoints
from clearppo.train.listener import Listener
from clearppo.train.onlooker import Onlooker

RECORDS = 50_000_000
"""Bytes that a run's records, its tokenizer and its card may take beside its models."""
TrainConfig = SFTConfig | RewardModelConfig | PPOConfig


@dataclass(frozen=True, kw_only=True)
class Output:
    """The directory, its checkpoints, and the one that the run goes on from, if it does."""

    run_dir: RunDir
    checkpoints: Checkpoints
    resume: Checkpoint | None

    def micro_batch_tokens(self, asked: int | Literal["auto"] | None) -> int | Literal["auto"] | None:
        """What is asked for; where that is left to the memory that is free now, what it was when the run began: another
        portioning changes the last bits."""
        if self.resume is None or asked != "auto":
            return asked
        # Not through self.resume, which would keep the whole state in memory while models are loaded.
        state = Checkpoint(self.resume.path, self.resume.step).state
        return state["about"]["numbers"]["max_tokens_per_microbatch"]

    def require_space(self, config: TrainConfig, *, result: int, checkpoint: int) -> None:
        """Raises RunDirError if the disk has no room for the `result` and for as many checkpoints as will be there at
        once, all in bytes."""
        needed, count = self.space(config, result=result, checkpoint=checkpoint)
        self.run_dir.require_space(needed, " (--save_steps 0 writes none)" * bool(count))

    def space(self, config: TrainConfig, *, result: int, checkpoint: int) -> tuple[int, int]:
        """The bytes that the run will take, and how many checkpoints are among them."""
        limit, every = config.run.save_total_limit, config.run.save_steps
        # One more than the limit while a new one is written. Without a limit nobody knows how many.
        count = 0 if not every else 1 if self.resume else (2 if limit is None else limit + 1)
        return result + RECORDS + count * checkpoint, count


Place = Callable[[TrainConfig, Mapping[str, object], Listener, Engine], AbstractContextManager[Output]]
"""What gives a run its output directory while its parts are put together: `run_directory`, or one that leaves the
user's alone."""


@contextlib.contextmanager
def run_directory(
    config: TrainConfig, inputs: Mapping[str, object], listener: Listener, engine: Engine
) -> Iterator[Output]:
    """The run's output directory while its parts are put together. If that fails, the directory is as it was before.
    The first process looks after it; to the others it is an Onlooker.

    `inputs` are the options that name what this run reads, with their values.
    Raises RunDirError; ConfigError if overwriting would delete an input; CheckpointError if the run cannot go on as
    asked: from a damaged checkpoint, or with other options.
    """
    run = config.run
    run_dir: RunDir = Onlooker(Path(run.output_dir).expanduser())

    def create() -> None:
        nonlocal run_dir
        keep_inputs(config, inputs)
        _check_path(run.resume_from_checkpoint)
        run_dir = RunDir.create(run.output_dir, overwrite=run.overwrite_output_dir, resume=_goes_on_there(config))

    engine.share(create)
    try:
        checkpoints = Checkpoints(run_dir, limit=run.save_total_limit, note=listener.note)

        def resumed() -> tuple[str, int] | None:
            found = _resumed(config, checkpoints)
            return None if found is None else (str(found.path), found.step)

        found = engine.share(resumed)
        resume = None if found is None else Checkpoint(Path(found[0]), found[1])
        yield Output(run_dir=run_dir, checkpoints=checkpoints, resume=resume)
    except BaseException:
        run_dir.discard()
        raise


def _check_path(asked: str | None) -> None:
    """Before output_dir is looked at: whoever mistyped the path should hear of that. Raises CheckpointError."""
    if asked is not None and asked != "auto":
        Checkpoints.open(Path(asked).expanduser())


def _resumed(config: TrainConfig, checkpoints: Checkpoints) -> Checkpoint | None:
    """The checkpoint that the run goes on from, if it is asked to and there is one."""
    asked = config.run.resume_from_checkpoint
    if asked is None:
        return None
    found = checkpoints.newest() if asked == "auto" else checkpoints.open(Path(asked).expanduser())
    if found is not None:
        check_unchanged((found.path / CONFIG).read_text(encoding="utf-8"), config, note=checkpoints.note)
    return found


def _goes_on_there(config: TrainConfig) -> bool:
    """Whether the run that goes on is the one in output_dir; a checkpoint may be another run's."""
    asked = config.run.resume_from_checkpoint
    if asked is None or asked == "auto":
        return asked is not None
    return Path(asked).expanduser().resolve().parent == Path(config.run.output_dir).expanduser().resolve()


def keep_inputs(config: TrainConfig, inputs: Mapping[str, object]) -> None:
    """Raises ConfigError if overwriting would delete what the run reads."""
    if not config.run.overwrite_output_dir:
        return
    target = Path(config.run.output_dir).expanduser().resolve()
    for option, value in inputs.items():
        source = Path(value).expanduser().resolve() if isinstance(value, str) and value else None
        if source is not None and source.exists() and source.is_relative_to(target):
            raise ConfigError(
                f"{option} = {value} lies in output_dir = {config.run.output_dir}, whose files "
                "--overwrite_output_dir would delete. Use another --output_dir."
            )
