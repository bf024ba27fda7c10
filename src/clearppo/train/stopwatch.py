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
    """Wraps the phases: tells the listener which one begins and adds up their seconds. A profile shows them by name."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._seconds: dict[str, float] = {}

    def phase(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, timed under `name`."""

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            self.listener.phase(name)
            start = time.perf_counter()
            try:
                with torch.profiler.record_function(f"{PHASE}{name}"):
                    return function(*args, **kwargs)
            finally:
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

        return timed

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap."""
        seconds, self._seconds = self._seconds, {}
        return seconds
