"""Which of several processes this is, as torchrun and schedulers say in the environment. No torch."""

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

from clearppo.errors import ConfigError

NEEDED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OF_THESE = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
"""Without any of these nobody has started several processes. A cluster may set MASTER_ADDR for everything."""

LAUNCHED = "CLEARPPO_LAUNCHED"
"""In the environment of a process that `--launch` has started, whatever their number."""
URLS = "CLEARPPO_VLLM_URLS"
"""Where it finds the engines that were started with it, separated by commas."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Process `rank` of `world`, counted from 0; on this machine `local_rank` of `local_world`."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one process that prints and writes."""
        return self.rank == 0


def place() -> Place:
    """Where this process stands. Raises ConfigError, in one sentence, where the environment says it half."""
    there = [name for name in OF_THESE if os.environ.get(name)]
    if not there or os.environ.get("WORLD_SIZE") == "1":
        return Place()
    missing = [name for name in NEEDED if not os.environ.get(name)]
    if missing:
        one = there[0]
        raise ConfigError(
            f"{one} = {os.environ[one]} is in the environment and {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not, so processes cannot find each other. Start them with "
            f"torchrun --nproc-per-node N -m clearppo ..., which sets {', '.join(NEEDED)}; or unset {one} to train in "
            "one."
        )
    rank, world, local_rank = (_number(name) for name in OF_THESE)
    if not 0 < _number("MASTER_PORT") < 2**16:
        raise ConfigError(
            f"MASTER_PORT = {os.environ['MASTER_PORT']} in the environment is no port. Let torchrun choose one with "
            "--standalone, or give one with --master-port 29500."
        )
    local_world = _number("LOCAL_WORLD_SIZE") if os.environ.get("LOCAL_WORLD_SIZE") else world
    if world < 1 or rank >= world or local_rank >= local_world:
        raise ConfigError(
            f"RANK = {rank} of WORLD_SIZE = {world}, LOCAL_RANK = {local_rank} of LOCAL_WORLD_SIZE = {local_world}: "
            "ranks are counted from 0 and lie below their number. Start the processes with torchrun."
        )
    return Place(rank=rank, world=world, local_rank=local_rank, local_world=local_world)


def is_first() -> bool:
    """Whether this process prints: rank 0, or the only one. Never raises: what is wrong must be said by somebody."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


def is_launched() -> bool:
    """Whether `--launch` has started this process, so that it need not start others."""
    return bool(os.environ.get(LAUNCHED))


def require_launched(launch: str) -> None:
    """Raises ConfigError if the processes of a run are to be started, and nobody has."""
    if launch != "here" and not is_launched():
        raise ConfigError(
            f"launch = {launch} is for the command line, which starts the processes of a run: write clearppo ppo "
            f"--launch {launch} .... In Python, leave it out."
        )


def hush() -> None:
    """Before torch is imported: what its C++ tells in many lines of a lost connection is said here in one."""
    if not is_first() or os.environ.get("WORLD_SIZE", "1") != "1":
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


@contextlib.contextmanager
def ending_quietly() -> Iterator[None]:
    """Of several processes, one that exits in the block ends here and now, once everything is done that is to be done
    at exit. Python would then take itself apart while threads of torch's still run, and now and then one of them ends
    the process with SIGABRT ("terminate called without an active exception") although all has gone well."""
    try:
        yield
    except SystemExit as end:
        if os.environ.get("WORLD_SIZE", "1") == "1" or not isinstance(end.code, int | None):
            raise
        for thread in threading.enumerate():
            if not thread.daemon and thread is not threading.current_thread():
                thread.join()
        atexit._run_exitfuncs()  # what Python calls then; there is no other name for it
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(end.code or 0)


_met = threading.Event()
_PATIENCE = 5.0
"""Seconds that a process which is not the first keeps a mistake to itself that all may have made: whoever started them
ends it in that time, if the first has said it."""


def note_met() -> None:
    """This process has met the others: from now on the first one hears what goes wrong in any of them."""
    _met.set()


def speaks(lost: int | None = None) -> str | None:
    """How this process begins to say what has gone wrong: the first one speaks, or the next if the first is `lost`.
    Before they have met each speaks for itself, and says which it is. None: it is silent."""
    if is_first() or (lost == 0 and os.environ.get("RANK") == "1"):
        return "error: "
    if _met.is_set():
        return None
    try:
        place()
    except ConfigError:
        return "error: "  # nobody knows who is first
    time.sleep(_PATIENCE)
    return f"error in process {os.environ['RANK']}: "


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise ConfigError(f"{name} = {text} in the environment is no whole number. Start the processes with torchrun.")
    return int(text)
