"""Everything that can go wrong in a way ClearPPO understands.

    ClearPPOError                 one clear sentence for the user; the command line prints it and exits with `exit_code`
    ├── ConfigError               an option: unknown, out of range, without effect, or two that contradict each other
    ├── DataError                 a file of prompts: missing, unreadable, malformed (with file and line), empty
    ├── ModelError                a model or tokenizer that cannot be loaded or cannot do what is asked of it
    ├── DeviceError               a device that is not there
    ├── RewardError               a reward source that is missing, raises, or returns something that is no score
    ├── RunDirError               the output directory: already used, not writable, no space
    └── TrainingError             training itself went wrong: the self-check failed, a loss is not finite

A message says what is wrong, the value seen, what is allowed, and the mend, with the flag spelled as the user types it.
Anything that is not a ClearPPOError is unexpected and keeps its traceback.
"""


class ClearPPOError(Exception):
    """Base of all errors that ClearPPO raises on purpose. `exit_code` is what the command line exits with."""

    exit_code: int = 2


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


class RunDirError(ClearPPOError):
    """The output directory already holds a run, cannot be written, or has no space left."""


class TrainingError(ClearPPOError):
    """Training went wrong in itself: the first-step self-check failed, or a loss is not finite."""

    exit_code: int = 3
