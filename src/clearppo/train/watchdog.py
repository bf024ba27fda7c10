"""Where is it? If nothing goes on for too long, the stack of every thread is printed. The run itself is left alone."""

import contextlib
import faulthandler
import io
import itertools
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from clearppo.errors import RunDirError
from clearppo.rundir import WATCHDOG, RunDir

LOOKS = 8
"""The watchdog looks so many times in the time that it allows, so that it is late by an eighth of it at most."""
Now = tuple[str, float]
"""What is going on, in words, and since when (time.monotonic)."""


@contextlib.contextmanager
def watched_over(minutes: float | None, now: Callable[[], Now], run_dir: RunDir) -> Iterator[None]:
    """While this is open, a sleeping thread looks now and then at `now()`. What goes on for longer than `minutes`
    (None: nobody looks) is told on stderr and in output_dir/watchdog-1.txt, -2, ...: the stacks of all threads, once a
    standstill. It never raises, and changes nothing.

    A thread of Python cannot wake up while C code keeps the interpreter to itself (a regular expression that
    backtracks for hours). For that, Python's own faulthandler stands by, and prints the bare stacks to stderr.
    """
    if minutes is None:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(
        target=_look, args=(minutes * 60, now, run_dir, over), name="clearppo watchdog", daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _look(seconds: float, now: Callable[[], Now], run_dir: RunDir, over: threading.Event) -> None:
    told: Now | None = None
    try:
        while True:
            _stand_by(seconds)
            if over.wait(seconds / LOOKS):
                return
            seen = now()
            waited = time.monotonic() - seen[1]
            if waited > seconds and seen != told:
                told = seen
                _tell(report(seen[0], waited), run_dir)
    finally:
        faulthandler.cancel_dump_traceback_later()


def report(phase: str, waited: float) -> str:
    """What goes on and for how long, and where each thread stands, the innermost call last."""
    lines = [
        f"clearppo watchdog: nothing has gone on for {waited / 60:.1f} minutes ({phase}). The run is left alone.\n"
    ]
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    frames = sys._current_frames()
    frames.pop(threading.get_ident(), None)
    for ident, frame in frames.items():
        lines.append(f"\nthread {names.get(ident, ident)}, the innermost call last:\n")
        lines += traceback.format_stack(frame)
    return "".join(lines)


def _tell(text: str, run_dir: RunDir) -> None:
    with contextlib.suppress(OSError, ValueError):  # a stream that is closed
        print(text, file=sys.stderr, flush=True)
    names = (f"{WATCHDOG}{n}.txt" for n in itertools.count(1))
    with contextlib.suppress(OSError, RunDirError):  # a disk that is full
        run_dir.write(next(name for name in names if not (run_dir.path / name).exists()), text)


def _stand_by(seconds: float) -> None:
    """Let faulthandler print after twice the time, unless this is called again before."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RuntimeError, io.UnsupportedOperation):
        faulthandler.dump_traceback_later(2 * seconds, file=sys.__stderr__ or sys.stderr)
