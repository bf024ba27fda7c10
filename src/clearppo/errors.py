"""Everything that can go wrong in a way ClearPPO understands.

    ClearPPOError                 one clear sentence for the user; the command line prints it and exits with `exit_code`
    ├── ConfigError               an option: unknown, out of range, without effect, or two that contradict each other
    ├── DataError                 a file of prompts: missing, unreadable, malformed (with file and line), empty
    ├── ModelError                a model or tokenizer that cannot be loaded or cannot do what is asked of it
    ├── DeviceError               a device that is not there
    ├── RewardError               a reward source that is missing, raises, or returns something that is no score
    │   └── ScoreError            a score that is infinite, or no number at all
    ├── RunDirError               the output directory: already used, not writable, no space
    ├── CheckpointError           a checkpoint to go on from: damaged, not there, or of a run with other options
    ├── RecordError               a file of the record: damaged, not there, or of a newer ClearPPO
    └── TrainingError             training itself went wrong: the self-check failed
        ├── AlarmError            an alarm that was to end the run, or that it could not go back for
        ├── DistributedError      a process that trains with others is lost, or they cannot meet
        ├── NumbersError          a loss, a gradient or a probability is not finite
        └── ShortOfMemoryError    the device's memory, or the machine's, does not suffice

StopRequested is none of them, but a KeyboardInterrupt: somebody wants the run to end.

A message says what is wrong, the value seen, what is allowed, and the mend, with the flag spelled as the user types it.
Anything that is not a ClearPPOError is unexpected and keeps its traceback.
"""

import re

_ENDLESS = re.compile(r"(\S{300})\S{100,}")


class ClearPPOError(Exception):
    """Base of all errors that ClearPPO raises on purpose. `exit_code` is what the command line exits with."""

    exit_code: int = 2

    def __str__(self) -> str:
        """The message on one line. It may quote what users' files hold: characters that would drive a terminal, or
        that no terminal can show, are written as Python escapes them, and of endless words the beginning is shown."""
        text = "".join(c if c == " " or c.isprintable() else ascii(c)[1:-1] for c in super().__str__())
        return _ENDLESS.sub(r"\1…", text)


class ConfigError(ClearPPOError):
    """An option is unknown, out of range, without effect, or contradicts another."""


class DataError(ClearPPOError):
    """A data file is missing, unreadable, malformed or empty."""


class ModelError(ClearPPOError):
    """A model or tokenizer cannot be loaded, or cannot do what is asked of it."""


class DeviceError(ClearPPOError):
    """A device was asked for that this machine does not have."""


class RewardError(ClearPPOError):
    """A reward source is missing, raises, or returns something that is not one finite number a row."""


class ScoreError(RewardError):
    """A reward source gave an infinity or NaN: numbers went wrong there, and another answer may be scored as it should
    be."""


class RunDirError(ClearPPOError):
    """The output directory already holds a run, cannot be written, or has no space left."""


class CheckpointError(ClearPPOError):
    """A checkpoint is damaged or not there, or the run that shall go on from it is another one."""


class RecordError(ClearPPOError):
    """A file of a run's record is damaged, not there, or of a newer ClearPPO; or it is asked for what it has not."""


class TrainingError(ClearPPOError):
    """Training went wrong in itself: the first-step self-check failed, numbers or memory did."""

    exit_code: int = 3


class AlarmError(TrainingError):
    """An alarm has rung that --alarm_actions says is to end the run, or for which it could not go back any more."""


class DistributedError(TrainingError):
    """Processes that train together cannot go on: one is lost or has ended, or they did not meet.

    `lost` is the rank of the one that is gone without a word, if that is known.
    """

    def __init__(self, message: str, *, lost: int | None = None) -> None:
        super().__init__(message)
        self.lost = lost


class NumbersError(TrainingError):
    """A loss, a gradient or the policy's probabilities are not finite, and the run cannot go on from there."""


class ShortOfMemoryError(TrainingError):
    """Memory does not suffice, with the sizes at hand and what to lower first."""


class StopRequested(KeyboardInterrupt):
    """A run ends because a signal asked for it. `at_once`: it was the second one, and nothing may be waited for.

    `exit_code` is what shells make of the signal: 130 for SIGINT (Ctrl-C), 143 for SIGTERM.
    """

    def __init__(self, message: str, signal_number: int, *, at_once: bool = False) -> None:
        super().__init__(message)
        self.at_once = at_once
        self.exit_code = 128 + signal_number
