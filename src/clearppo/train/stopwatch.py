"""How long each phase took, and how much memory, without a line of it in the loop."""

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

from clearppo.engines.peak import Peak
from clearppo.train.listener import Listener

PHASE = "phase: "
"""What the name of a phase begins with in a profile."""
GIB = 2**30
MORE = 1.01
"""A later phase has the peak only if it takes so many times as much: the last pages are nobody's."""
LOADING, BETWEEN = "loading", "saving"
"""What goes on before the first phase, and most of what does between them."""
P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Wraps the phases: tells the listener which one begins and adds up their seconds. A profile shows them by name.

    `now` is what is going on, in words, and since when (time.monotonic): "sampling", or "after sampling" when that is
    done. Whoever wonders why nothing happens looks there, from another thread too.

    With `waited`, the seconds so far in which this process talked with others, what each phase has of them is counted.
    With a `peak` the most memory of each phase is measured; `highest` is that of the whole run so far, in bytes, and
    when it was.
    """

    def __init__(self, listener: Listener, peak: Peak | None = None, waited: Callable[[], float] | None = None) -> None:
        self.listener = listener
        self.highest: tuple[int, str] | None = None
        self._peak = peak
        self._memory: dict[str, int] = {}
        self._between = LOADING
        self.now = ("before the first phase", time.monotonic())
        self._seconds: dict[str, float] = {}
        self._waited = waited
        self._talked: dict[str, float] = {}

    def phase(self, name: str, function: Callable[P, R]) -> Callable[P, R]:
        """`function`, timed under `name`."""

        @functools.wraps(function)
        def timed(*args: P.args, **kwargs: P.kwargs) -> R:
            self.now = (name, time.monotonic())
            self.listener.phase(name)
            self.look()
            start, before = time.perf_counter(), self._waited() if self._waited else 0.0
            try:
                with torch.profiler.record_function(f"{PHASE}{name}"):
                    result = function(*args, **kwargs)
                self.now = (f"after {name}", time.monotonic())
                return result
            finally:
                if self._waited:
                    self._talked[name] = self._talked.get(name, 0.0) + self._waited() - before
                self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start
                self._measure(name)

        return timed

    def look(self) -> None:
        """Note what was taken since the last phase, and measure anew."""
        self._measure(None)
        if self._peak is not None:
            self._peak.forget()

    def _measure(self, phase: str | None) -> None:
        taken = None if self._peak is None else self._peak.bytes()
        if taken is None:
            return
        if phase is not None:
            self._memory[phase] = max(taken, self._memory.get(phase, 0))
        if self.highest is None or taken > MORE * self.highest[0]:
            self.highest = taken, phase or self._between
        if phase is not None:
            self._between = BETWEEN

    def lap(self) -> dict[str, float]:
        """Seconds by phase since the last lap."""
        seconds, self._seconds = self._seconds, {}
        return seconds

    def talks(self) -> dict[str, float]:
        """Seconds by phase, since this was last asked, in which this process talked with others; nothing where it is
        alone."""
        talked, self._talked = self._talked, {}
        return talked

    def peaks(self) -> dict[str, float]:
        """The most memory by phase since this was last asked, in GiB; nothing where nobody can say."""
        memory, self._memory = self._memory, {}
        return {phase: taken / GIB for phase, taken in memory.items()}
