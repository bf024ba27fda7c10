"""How long each phase took, without a line of it in the loop."""

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from clearppo.train.listener import Listener

PHASE = "phase: "
"""What the name of a phase begins with in a profile."""
P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Wraps the phases: tells the listener which one begins and adds up their seconds. A profile shows them by name.

    `now` is what is going on, in words, and since when (time.monotonic): "sampling", or "after sampling" when that is
    done. Whoever wonders why nothing happens looks there, from another thread too.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self.now = ("before the first phase", time.monotonic())
        self._seconds: dict[str, float] = {}

    def phase(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, timed under `name`."""

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            self.now = (name, time.monotonic())
            self.listener.phase(name)
            start = time.perf_counter()
            try:
                with torch.profiler.record_function(f"{PHASE}{name}"):
                    result = function(*args, **kwargs)
                self.now = (f"after {name}", time.monotonic())
                return result
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

        return timed

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap."""
        seconds, self._seconds = self._seconds, {}
        return seconds
