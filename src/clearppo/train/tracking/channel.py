"""One tracker behind a queue and a thread of its own, so that it can neither slow a run nor stop it."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from clearppo.train.tracking.tracker import Ended, TrackedRun, Tracker

WAITING = 500
"""Calls that may wait for a tracker; beyond that the oldest are dropped."""


class Channel:
    """Calls to a tracker, in order, without waiting for it.

    Whatever it raises switches it off; whoever is slower than the run loses its oldest calls. Both are said once, in
    `notes`, for the thread of the run to pass on: a listener is told of a run from one thread.
    """

    def __init__(self, tracker: Tracker, *, limit: int = WAITING) -> None:
        self.tracker = tracker
        self.dropped = 0
        self._limit = limit
        self._calls: deque[Callable[[], object]] = deque()
        self._changed = threading.Condition()
        self._ended: Ended | None = None
        self._off = self._done = False
        self._notes: list[str] = []
        # A daemon: a tracker that hangs must not keep the process from ending.
        self._thread = threading.Thread(target=self._work, name=f"tracker {tracker.name}", daemon=True)

    def open(self, run: TrackedRun) -> None:
        """Begin: the thread opens the tracker first."""
        self._calls.append(partial(self._open, run))
        try:
            self._thread.start()
        except RuntimeError as error:  # the machine has no thread left to give
            self._switch_off(error)
            self._done = True

    def put(self, call: Callable[[], object]) -> None:
        """Have the tracker's thread make this call when it gets there."""
        with self._changed:
            if self._off or self._ended is not None:
                return
            if len(self._calls) >= self._limit:
                self._calls.popleft()
                self._drop()
            self._calls.append(call)
            self._changed.notify_all()

    def end(self, ended: Ended) -> None:
        """The run has ended this way; the tracker is closed after the calls that still wait."""
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def wait(self, until: float) -> None:
        """Wait for the tracker to be closed, until `time.monotonic()` is `until` at the latest."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._done, max(until - time.monotonic(), 0.0)):
                left = f", and {len(self._calls)} of its updates still wait" if self._calls else ""
                self._notes.append(f"tracker {self.tracker.name} is not ready in time{left}: the run ends without it")
            elif self.dropped:
                self._notes.append(f"tracker {self.tracker.name} missed {self.dropped} updates in all")

    def notes(self) -> list[str]:
        """What is to be said of the tracker since the last call."""
        with self._changed:
            notes, self._notes = self._notes, []
        return notes

    def _drop(self) -> None:
        self.dropped += 1
        if self.dropped == 1:
            self._notes.append(
                f"tracker {self.tracker.name} is slower than the run: its oldest updates are dropped from here on "
                "(metrics.jsonl has them all)"
            )

    def _open(self, run: TrackedRun) -> None:
        said = self.tracker.open(run)
        if said:
            with self._changed:
                self._notes.append(f"tracker {self.tracker.name}: {said}")

    def _work(self) -> None:
        try:
            while (call := self._next()) is not None:
                call()
            assert self._ended is not None
            self.tracker.close(self._ended)
        except BaseException as error:  # some packages call sys.exit
            self._switch_off(error)
        finally:
            with self._changed:
                self._done = True
                self._changed.notify_all()

    def _next(self) -> Callable[[], object] | None:
        """The next call; None when the run has ended and none waits any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._ended is not None)
            return self._calls.popleft() if self._calls else None

    def _switch_off(self, error: BaseException) -> None:
        with self._changed:
            self._off = True
            self._calls.clear()
            self._notes.append(
                f"tracker {self.tracker.name} is switched off for the rest of the run ({said(error)}); training goes "
                "on, and metrics.jsonl has everything"
            )
        with contextlib.suppress(BaseException):
            self.tracker.close("failed")


def said(error: BaseException) -> str:
    """An error of somebody else in one line."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 200 else f"{text[:199]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
