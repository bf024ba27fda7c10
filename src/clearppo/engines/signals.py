"""Ctrl-C and SIGTERM, for a program whose processes run elsewhere: they are handed on, and each decides for itself."""

import signal
import threading
from types import FrameType
from typing import Any

from clearppo.errors import StopRequested

ENOUGH = 3
"""So many signals end everything at once: the first asks for a checkpoint, the second for none."""


class Signals:
    """While this is open signals are counted. Unless they are `handed_on` to processes the first one raises."""

    def __init__(self) -> None:
        self.received: list[int] = []
        self.handed_on = False
        self._before: dict[int, Any] = {}

    @property
    def enough(self) -> bool:
        """Whether somebody insists."""
        return len(self.received) >= ENOUGH

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.received.append(number)
        if not self.handed_on:
            raise StopRequested("interrupted while no process of the run was there.", number, at_once=True)
