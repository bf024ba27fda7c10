"""Saving that an impatient second Ctrl-C does not cut short."""

import contextlib
import signal
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C does nothing inside the block: a second one would lose what the first one has made the run save.

    Outside of the main thread, to which alone Python gives signals, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        # None: the handler was not Python's, and Python cannot put it back
        signal.signal(signal.SIGINT, signal.default_int_handler if before is None else before)
