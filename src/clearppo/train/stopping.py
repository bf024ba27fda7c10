"""Ending a run on request: Ctrl-C (SIGINT), or the SIGTERM of a scheduler that takes the machine back."""

import contextlib
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from clearppo.errors import StopRequested
from clearppo.train.listener import Listener

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stopping:
    """A context in which the first SIGINT or SIGTERM asks a run to end, and the second ends it at once.

        with Stopping(listener, round="iteration") as stopping:
            for ...:
                stopping.interruptible = True     # nothing has changed since the round began
                ...
                stopping.interruptible = False    # from here on the round is finished first
                ...
                if stopping.asked: ...            # write a checkpoint, then raise stopping.request("...")

    While `interruptible`, the first signal raises StopRequested wherever the program is; else `asked` is set, the
    listener is told, and the loop ends the round. StopRequested is a KeyboardInterrupt. Signals that the process
    ignores (nohup, a shell's background) stay ignored; outside of the main thread, to which alone Python gives signals,
    nothing changes.

    Where several processes train together (`gather` gives what each says, in rank order), a signal reaches them at
    different moments, and the first one raises nowhere: all end at the same `agree`.
    """

    def __init__(
        self, listener: Listener, *, round: str = "iteration", gather: Callable[[int], list[int]] | None = None
    ) -> None:
        self.asked: signal.Signals | None = None
        self._listener = listener
        self._round = round
        self._interruptible = False
        self._gather = gather
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stopping":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None: the handler was not Python's, and Python could not put it back
                if signal.getsignal(number) not in (signal.SIG_IGN, None):
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    @property
    def interruptible(self) -> bool:
        """Whether the round that is being done may be given up: nothing has changed since it began."""
        return self._interruptible

    @interruptible.setter
    def interruptible(self, value: bool) -> None:
        """Raises StopRequested if a stop was asked for and nothing would be lost by it."""
        self._interruptible = value
        if value and self.asked is not None and self._gather is None:
            raise self.request()

    def agree(self) -> None:
        """All processes are here, and nothing is lost if they end. Raises StopRequested if one of them was asked to."""
        if self._gather is None:
            return
        asked = max(self._gather(0 if self.asked is None else int(self.asked)))
        if asked:
            self.asked = signal.Signals(asked)
            raise self.request()

    def request(self, message: str = "interrupted.") -> StopRequested:
        """The exception that ends the run; call it only once a stop was asked for."""
        assert self.asked is not None
        return StopRequested(message, self.asked)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self.asked is not None:
            raise StopRequested("interrupted.", number, at_once=True)
        self.asked = signal.Signals(number)
        if self._interruptible and self._gather is None:
            raise self.request()
        # In the middle of anything, a print to the same terminal too, which forbids another inside it.
        with contextlib.suppress(Exception):
            self._listener.note(f"stopping after this {self._round}; {_again(self.asked)} to stop at once")


def _again(number: signal.Signals) -> str:
    return "press Ctrl-C once more" if number is signal.SIGINT else f"send {number.name} once more"
